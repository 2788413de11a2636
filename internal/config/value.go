package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// Duration is a time.Duration that is written as "90s", "30m", "2h" or "14d".
type Duration time.Duration

// ParseDuration reads one; it is not negative.
func ParseDuration(s string) (Duration, error) {
	bad := errors.New("this is no duration: write 90s, 30m, 2h or 14d")
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || !(n >= 0 && n <= 36500) {
			return 0, bad
		}
		return Duration(n * 24 * float64(time.Hour)), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, bad
	}
	return Duration(d), nil
}

// String is the shortest way to write it.
func (d Duration) String() string {
	day := Duration(24 * time.Hour)
	if d >= 2*day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := time.Duration(d).String()
	s = strings.TrimSuffix(s, "m0s") + map[bool]string{true: "m"}[strings.HasSuffix(s, "m0s")]
	return strings.TrimSuffix(s, "h0m") + map[bool]string{true: "h"}[strings.HasSuffix(s, "h0m")]
}

// Size is a number of bytes that is written as "512MiB" or "2GiB".
type Size int64

// ParseSize reads one; units are powers of 1024.
func ParseSize(s string) (Size, error) {
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 || n > math.MaxInt64/2 {
		return 0, errors.New("this is no size: write 512MiB or 2GiB")
	}
	return Size(n), nil
}

// String is the shortest way to write it.
func (s Size) String() string {
	for _, u := range []struct {
		n    Size
		name string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if s >= u.n && s%u.n == 0 {
			return strconv.FormatInt(int64(s/u.n), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
