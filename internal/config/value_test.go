package config

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0s": 0, "0": 0, "90s": 90 * time.Second, "30m": 30 * time.Minute, "2h": 2 * time.Hour, "14d": 14 * 24 * time.Hour, "0.5d": 12 * time.Hour, "1h30m": 90 * time.Minute, "36500d": 36500 * 24 * time.Hour,
	} {
		if d, err := ParseDuration(text); err != nil || d != Duration(want) {
			t.Errorf("%q is %v, %v", text, d, err)
		}
	}
	for _, text := range []string{"", "d", "5", "-1s", "-1d", "1w", "1 h", "NaNd", "Infd", "1e309d", "36501d", "1e9h", "9223372036854775808ns", "2h\n", "1d2h"} {
		if d, err := ParseDuration(text); err == nil {
			t.Errorf("%q is %v", text, d)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1024": 1024, "512MiB": 512 << 20, "2GiB": 2 << 30, "1.5GiB": 3 << 29, "1TiB": 1 << 40, "2g": 2 << 30, "64m": 64 << 20,
	} {
		if s, err := ParseSize(text); err != nil || s != want {
			t.Errorf("%q is %v, %v", text, int64(s), err)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "-1GiB", "NaN", "inf", "1e309", "9e300GiB", "99999999999GiB", "0x10", "1GB/s", "five", "1 GiB b"} {
		if s, err := ParseSize(text); err == nil {
			t.Errorf("%q is %d", text, int64(s))
		}
	}
}

// TestWhatIsWrittenIsRead: String's form is read as the same value.
func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Duration(rapid.Int64Range(0, 1<<52).Draw(t, "duration")) * Duration(rapid.SampledFrom([]time.Duration{1, time.Second, time.Minute}).Draw(t, "unit"))
		if d < 0 || d > Duration(36500*24*time.Hour) {
			d = 0
		}
		if got, err := ParseDuration(d.String()); err != nil || got != d {
			t.Fatalf("%d is written %s and read %v, %v", int64(d), d, got, err)
		}
		s := Size(rapid.Int64Range(0, 1<<52).Draw(t, "size"))
		if got, err := ParseSize(s.String()); err != nil || got != s {
			t.Fatalf("%d is written %s and read %d, %v", int64(s), s, int64(got), err)
		}
	})
	for d, want := range map[time.Duration]string{0: "0s", time.Minute: "1m", 2 * time.Hour: "2h", 24 * time.Hour: "24h", 48 * time.Hour: "2d", 10 * time.Minute: "10m", 90 * time.Second: "1m30s", time.Hour + time.Minute: "1h1m"} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%v is written %s, want %s", d, got, want)
		}
	}
}
