package config

import (
	"fmt"
	"slices"
	"time"

	"carrel/hub"
)

const (
	maxSpare  = 200
	clockForm = "15:04"
)

// days are the names of time.Weekday's values.
var days = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// clock is a time of the day since midnight.
func clock(text string) (time.Duration, error) {
	at, err := time.Parse(clockForm, text)
	return time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute, err
}

// spares gives what was found valid.
func (p Profile) spares() hub.Spare {
	s := hub.Spare{Always: p.Spare, Max: p.SpareMax}
	for _, a := range p.SpareAt {
		at := hub.SpareTime{Count: a.Spare, Zone: time.UTC}
		at.From, _ = clock(a.From)
		at.Until, _ = clock(a.Until)
		if zone, err := time.LoadLocation(a.TimeZone); err == nil {
			at.Zone = zone
		}
		for _, d := range a.Days {
			at.Days = append(at.Days, time.Weekday(slices.Index(days, d)))
		}
		s.At = append(s.At, at)
	}
	return s
}

func (p Profile) validateSpares(k *checks, at string) {
	k.that(p.Spare >= 0 && p.Spare <= maxSpare, at+"spare", "out of range", "give 0 to 200")
	k.that(p.Max >= 0 && p.Max <= 100000, at+"max", "out of range", "give 0 to 100000")
	k.that(p.Max == 0 || p.Max >= p.Spare, at+"max", "it is less than spare", "give more than spare, or leave it out")
	k.that(p.SpareMax >= 0 && p.SpareMax <= maxSpare, at+"spare_max", "out of range", "give 0 to 200")
	k.that(p.SpareMax == 0 || p.SpareMax >= p.Spare, at+"spare_max", "it is less than spare", "give more than spare, or leave it out")
	k.that(p.Spare == 0 && p.SpareMax == 0 && len(p.SpareAt) == 0 || len(p.Command) == 0, at+"spare", "a server with a command of its own can't be kept ready", "leave out command, or spare, spare_max and spare_at")
	for i, a := range p.SpareAt {
		a.validate(k, fmt.Sprintf("%sspare_at[%d].", at, i))
	}
}

func (a SpareAt) validate(k *checks, at string) {
	k.that(a.Spare >= 1 && a.Spare <= maxSpare, at+"spare", "out of range", "give 1 to 200")
	for i, d := range a.Days {
		k.that(slices.Contains(days, d), fmt.Sprintf("%sdays[%d]", at, i), "there is no such day", "use mon, tue, wed, thu, fri, sat or sun")
	}
	for field, text := range map[string]string{"from": a.From, "until": a.Until} {
		_, err := clock(text)
		k.that(err == nil, at+field, "this is no time of the day", `write "09:45", in quotes`)
	}
	_, err := time.LoadLocation(a.TimeZone)
	k.that(err == nil && a.TimeZone != "" && a.TimeZone != "Local", at+"time_zone", "there is no such time zone", "use an IANA name, such as Europe/Berlin or UTC")
}
