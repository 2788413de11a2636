// Package top shows what every server does at the moment.
//
// It owns the form in which the hub tells it, the rates between two such samples, and how they look on
// a terminal. It refuses to own where samples come from and the terminal's modes, and believes nothing
// that it is told: whatever is printed is cut, and freed of what would steer a terminal.
package top

import (
	"time"
)

// Sample is all servers at one moment.
type Sample struct {
	Time    time.Time `json:"time"`
	Proxies int       `json:"proxies"` // whose counts are in it
	Servers []Server  `json:"servers"`
}

// Server is one of them. Counters begin anew when a proxy does.
type Server struct {
	User         string     `json:"user"`
	Server       string     `json:"server"` // empty: the default one
	State        string     `json:"state"`
	Profile      string     `json:"profile"`
	Started      *time.Time `json:"started"`
	LastActivity *time.Time `json:"last_activity"`
	Websockets   int64      `json:"websockets"`
	Requests     uint64     `json:"requests"`       // in all
	Received     uint64     `json:"bytes_received"` // from clients, in all
	Sent         uint64     `json:"bytes_sent"`     // to clients, in all
	Cores        *float64   `json:"cpu_cores"`      // kept busy lately; null: not measured
	Memory       *int64     `json:"memory_bytes"`
}

// Row is a server with what happened in each second since the sample before.
type Row struct {
	Server

	RequestsRate float64 `json:"requests_per_second"`
	ReceivedRate float64 `json:"bytes_received_per_second"`
	SentRate     float64 `json:"bytes_sent_per_second"`
}

// Report is a sample with its rates.
type Report struct {
	Time time.Time `json:"time"`
	Rows []Row     `json:"servers"`
}

// name is as the hub writes it: the user's, and a named server's behind a slash.
func (s Server) name() string {
	if s.Server == "" {
		return s.User
	}
	return s.User + "/" + s.Server
}

// Compare makes a report of two samples. A server that was not in the one before has no rates yet, and
// neither has one whose counter went back because a proxy ended. Where another number of proxies answered,
// there are none at all: what one of them had counted before is no second's work.
func Compare(before, now Sample) Report {
	was := make(map[string]Server, len(before.Servers))
	for _, s := range before.Servers {
		if before.Proxies != now.Proxies {
			break
		}
		was[s.name()] = s
	}
	seconds := now.Time.Sub(before.Time).Seconds()
	rep := Report{Time: now.Time, Rows: make([]Row, 0, len(now.Servers))}
	for _, s := range now.Servers {
		row := Row{Server: s}
		if old, known := was[s.name()]; known && seconds > 0 {
			row.RequestsRate = rate(old.Requests, s.Requests, seconds)
			row.ReceivedRate = rate(old.Received, s.Received, seconds)
			row.SentRate = rate(old.Sent, s.Sent, seconds)
		}
		rep.Rows = append(rep.Rows, row)
	}
	return rep
}

func rate(before, now uint64, seconds float64) float64 {
	if now < before {
		return 0
	}
	return float64(now-before) / seconds
}
