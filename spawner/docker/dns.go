package docker

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// This file reads what containers ask and what resolvers answer; resolver.go carries it.

const (
	plainSize = 512  // bytes of an answer by UDP, where the asker says nothing else (RFC 1035, section 4.2.1)
	ednsSize  = 1232 // at most, so that nothing is fragmented
	ixfr      = dnsmessage.Type(251)
)

// lookup is a container's question, as far as it is passed on: never the bytes that it sent.
type lookup struct {
	id       uint16
	recurse  bool
	question dnsmessage.Question
	size     int // of the answer by UDP that it takes
}

var errNoQuestion = errors.New("no question that is answered")

// parseLookup reads a query. Updates, notifications, zone transfers and other classes than the
// internet's could make a site's resolver do what it does for the hub's machine only.
func parseLookup(msg []byte) (lookup, error) {
	var p dnsmessage.Parser
	head, err := p.Start(msg)
	if err != nil || head.Response || head.OpCode != 0 {
		return lookup{}, errNoQuestion
	}
	questions, err := p.AllQuestions()
	if err != nil || len(questions) != 1 {
		return lookup{}, errNoQuestion
	}
	q := questions[0]
	if q.Class != dnsmessage.ClassINET || q.Type == dnsmessage.TypeAXFR || q.Type == ixfr {
		return lookup{}, errNoQuestion
	}
	return lookup{head.ID, head.RecursionDesired, q, answerSize(&p)}, nil
}

func answerSize(p *dnsmessage.Parser) int {
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return plainSize
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return plainSize
		}
		if h.Type == dnsmessage.TypeOPT {
			return min(max(int(h.Class), plainSize), ednsSize)
		}
		if p.SkipAdditional() != nil {
			return plainSize
		}
	}
}

// query is what a resolver is asked.
func (l lookup) query(id uint16) ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	var edns dnsmessage.ResourceHeader
	if err := errors.Join(
		b.StartQuestions(), b.Question(l.question), b.StartAdditionals(),
		edns.SetEDNS0(ednsSize, dnsmessage.RCodeSuccess, false), b.OPTResource(edns, dnsmessage.OPTResource{}),
	); err != nil {
		return nil, err
	}
	return b.Finish()
}

// answers tells whether a message is a resolver's answer to query id.
func (l lookup) answers(m *dnsmessage.Message, id uint16) bool {
	return m.Response && m.ID == id && len(m.Questions) == 1 && m.Questions[0].Type == l.question.Type &&
		m.Questions[0].Class == l.question.Class && strings.EqualFold(m.Questions[0].Name.String(), l.question.Name.String())
}

// reply is what the container is told: the resolver's answer without what nobody asked for; or, where
// the answer names a private address, a refusal.
func (l lookup) reply(m *dnsmessage.Message) dnsmessage.Message {
	if !public(m.Answers) {
		return l.fail(dnsmessage.RCodeRefused)
	}
	out := l.fail(m.RCode)
	out.Answers = m.Answers
	out.Authorities = slices.DeleteFunc(slices.Clone(m.Authorities), func(r dnsmessage.Resource) bool { return r.Header.Type != dnsmessage.TypeSOA })
	return out
}

// fail is an answer without records.
func (l lookup) fail(code dnsmessage.RCode) dnsmessage.Message {
	return dnsmessage.Message{
		Header:    dnsmessage.Header{ID: l.id, Response: true, RecursionDesired: l.recurse, RecursionAvailable: true, RCode: code},
		Questions: []dnsmessage.Question{l.question},
	}
}

// pack writes a reply, of so many bytes at most: a longer one is asked for anew by TCP.
func (l lookup) pack(m dnsmessage.Message, limit int) ([]byte, error) {
	b, err := m.Pack()
	if err == nil && len(b) > limit {
		short := l.fail(m.RCode)
		short.Truncated = true
		b, err = short.Pack()
	}
	return b, err
}

// refused tells whether the question itself is about a private address: the answer would be the
// name of a machine behind the walls.
func (l lookup) refused() bool {
	name := strings.ToLower(l.question.Name.String())
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(rest, ".")
		slices.Reverse(parts)
		var raw [4]byte
		for i, p := range parts[:min(4, len(parts))] {
			n, err := strconv.ParseUint(p, 10, 8)
			if err != nil {
				return true
			}
			raw[i] = byte(n)
		}
		return !reachable(netip.AddrFrom4(raw))
	}
	return strings.HasSuffix(name, ".ip6.arpa.") && !strings.HasSuffix(name, ".2.ip6.arpa.") && !strings.HasSuffix(name, ".3.ip6.arpa.")
}

// public tells whether no record names a private address.
func public(records []dnsmessage.Resource) bool {
	for _, r := range records {
		ok := true
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			ok = reachable(netip.AddrFrom4(b.A))
		case *dnsmessage.AAAAResource:
			ok = reachable(netip.AddrFrom16(b.AAAA))
		case *dnsmessage.SVCBResource:
			ok = publicHints(b.Params)
		case *dnsmessage.HTTPSResource:
			ok = publicHints(b.Params)
		}
		if !ok {
			return false
		}
	}
	return true
}

// publicHints looks at the addresses in a service's parameters (RFC 9460, section 7.3).
func publicHints(params []dnsmessage.SVCParam) bool {
	for _, p := range params {
		size := map[dnsmessage.SVCParamKey]int{dnsmessage.SVCParamIPv4Hint: 4, dnsmessage.SVCParamIPv6Hint: 16}[p.Key]
		if size == 0 {
			continue
		}
		for raw := range slices.Chunk(p.Value, size) {
			if a, ok := netip.AddrFromSlice(raw); !ok || !reachable(a) {
				return false
			}
		}
	}
	return true
}

var (
	privatePrefixes = prefixes(private...)
	// global is what is routed of IPv6 (RFC 4291), and special what is of it all the same of no single
	// host, or of documentation, or a tunnel (RFC 6890).
	global  = netip.MustParsePrefix("2000::/3")
	special = prefixes("2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16")
	// In these an IPv4 address is embedded, at a byte (RFC 6052, RFC 3056).
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
	sixToV4 = netip.MustParsePrefix("2002::/16")
)

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, t := range texts {
		list = append(list, netip.MustParsePrefix(t))
	}
	return list
}

// reachable tells whether an address is a host's on the outside: by IPv4, whether the packet filter
// lets containers reach it; by IPv6, of which the filter lets nothing through, whether it were so.
func reachable(a netip.Addr) bool {
	a = a.Unmap()
	within := func(p netip.Prefix) bool { return p.Contains(a) }
	raw := a.As16()
	switch {
	case a.Is4():
		return !slices.ContainsFunc(privatePrefixes, within)
	case nat64.Contains(a):
		return reachable(embedded(raw[12:]))
	case sixToV4.Contains(a):
		return reachable(embedded(raw[2:6]))
	}
	return global.Contains(a) && !slices.ContainsFunc(special, within)
}

func embedded(raw []byte) netip.Addr {
	var v4 [4]byte
	binary.BigEndian.PutUint32(v4[:], binary.BigEndian.Uint32(raw))
	return netip.AddrFrom4(v4)
}
