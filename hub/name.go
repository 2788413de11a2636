package hub

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
)

// maxLabel is the longest DNS label (RFC 1035, section 2.3.4).
const maxLabel = 63

// encodeLabel is the one injective encoding of a name into [a-z0-9-]: letters and digits stand for
// themselves, every other byte is '-' and two lower-case hex digits, so "--" never occurs and the
// result is a DNS label, a path segment, a container-name part and a Redis key part at once. A
// result over limit bytes is cut and ends in "-z" and 26 base32 digits of the name's SHA-256;
// 'z' is no hex digit, so a cut form is never another name's plain form. A leading or trailing
// '-' cannot occur in a cut form, and is kept out of plain forms by the parsers.
func encodeLabel(name string, limit int) string {
	const hexDigits = "0123456789abcdef"
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('-')
		b.WriteByte(hexDigits[c>>4])
		b.WriteByte(hexDigits[c&15])
	}
	plain := b.String()
	if len(plain) <= limit {
		return plain
	}
	sum := sha256.Sum256([]byte(name))
	digest := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))[:26]
	return strings.TrimRight(plain[:limit-28], "-") + "-z" + digest
}

// decodeLabel undoes encodeLabel for plain forms; ok is false for cut forms and for anything that
// encodeLabel does not make.
func decodeLabel(label string) (name string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(label); i++ {
		if label[i] != '-' {
			b.WriteByte(label[i])
			continue
		}
		if i+2 >= len(label) {
			return "", false
		}
		raw, err := hex.DecodeString(label[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b.WriteByte(raw[0])
		i += 2
	}
	name = b.String()
	return name, encodeLabel(name, maxLabel) == label
}
