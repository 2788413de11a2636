package web

import (
	"strconv"
	"strings"
	"time"

	"carrel/hub"
)

// phase is how a phase is told: a word, and the tone of its colour.
type phase struct{ Word, Tone string }

var phases = map[hub.Phase]phase{
	hub.Absent: {"not running", "off"}, hub.Queued: {"waiting in line", "warn"}, hub.Starting: {"starting", "warn"}, hub.Ready: {"running", "good"},
	hub.Paused: {"paused", "good"}, hub.Stopping: {"stopping", "warn"}, hub.Failed: {"failed", "bad"},
}

// keyPath is a server as it stands in the path of a page.
func keyPath(key hub.ServerKey) string {
	return strings.Trim(strings.TrimPrefix(key.Path(), "/user"), "/")
}

// name is what a visitor calls a server.
func name(key hub.ServerKey, v visitor) string {
	switch {
	case key.User != v.User:
		return "the server " + key.String()
	case key.Server.String() == "":
		return "my server"
	}
	return key.Server.String()
}

// profileView is one choice of a start form.
type profileView struct {
	Name, Title, Description    string
	CPU, Memory, Files, Network string
	Chosen                      bool
}

func cpuText(cpus float64) string {
	text := strconv.FormatFloat(cpus, 'f', -1, 64)
	if cpus <= 1 {
		return text + " CPU"
	}
	return text + " CPUs"
}

func profileTitle(p hub.Profile) string {
	if p.Title != "" {
		return p.Title
	}
	return p.Name
}

// profilesOf lists what a person may start; last is preferred if it is among them.
func (w *Web) profilesOf(u hub.User, last string) []profileView {
	policy := w.cfg.Servers.Policy()
	chosen, err := policy.Profile(last, u.Name, u.Groups, u.Admin)
	if err != nil {
		if chosen, err = policy.Profile("", u.Name, u.Groups, u.Admin); err != nil {
			return nil
		}
	}
	var views []profileView
	for _, p := range policy.Profiles {
		if !p.Allows(u.Name, u.Groups, u.Admin) {
			continue
		}
		pv := profileView{
			Name: p.Name, Title: profileTitle(p), Description: p.Description, CPU: cpuText(p.Limits.CPUs),
			Memory: bytesText(p.Limits.Memory) + " memory", Files: "files are not kept", Network: "no network", Chosen: p.Name == chosen.Name,
		}
		switch {
		case p.Home == "":
		case p.Limits.Disk > 0:
			pv.Files = bytesText(p.Limits.Disk) + " for files"
		default:
			pv.Files = "files are kept"
		}
		if p.Network != hub.NetworkNone {
			pv.Network = "internet access"
		}
		views = append(views, pv)
	}
	return views
}

// profile finds a server's profile as it stands now; the zero Profile when it is gone.
func (w *Web) profile(name string) hub.Profile {
	for _, p := range w.cfg.Servers.Policy().Profiles {
		if p.Name == name {
			return p
		}
	}
	return hub.Profile{Name: name}
}

// usageView is what a server uses now, with its limits.
type usageView struct {
	Memory, MemoryLimit, CPU, CPULimit string
	MemoryPercent, CPUPercent          int
}

func (w *Web) usageOf(s hub.Server) *usageView {
	u, cores, ok := w.cfg.Servers.Usage(s.Key)
	if !ok || u.Memory < 0 {
		return nil
	}
	uv := &usageView{Memory: bytesText(u.Memory), CPU: coresText(cores)}
	if u.MemoryLimit > 0 {
		uv.MemoryLimit, uv.MemoryPercent = bytesText(u.MemoryLimit), percent(float64(u.Memory), float64(u.MemoryLimit))
	}
	if cpus := w.profile(s.Profile).Limits.CPUs; cpus > 0 {
		uv.CPULimit, uv.CPUPercent = cpuText(cpus), percent(cores, cpus)
	}
	return uv
}

func coresText(cores float64) string { return strconv.FormatFloat(cores, 'f', 2, 64) }

func percent(part, whole float64) int { return int(min(100, max(0, 100*part/whole))) }

// cullView is a coming stop.
type cullView struct {
	At, In, Why, KeepFor string
	Keepable             bool
}

func (w *Web) cullOf(s hub.Server, groups []string) *cullView {
	if s.CullAt.IsZero() || s.Phase != hub.Ready && s.Phase != hub.Paused {
		return nil
	}
	rule := w.cfg.Servers.Policy().CullRule(s.Profile, groups)
	c := &cullView{At: s.CullAt.UTC().Format(time.RFC3339), In: "in less than a minute", Why: plain(s.CullWhy), Keepable: keepable(s, rule), KeepFor: span(rule.Extend)}
	if left := time.Until(s.CullAt); left >= time.Minute {
		c.In = "in " + span(left)
	}
	return c
}

// keepable tells whether an owner can put the stop off: there is a rule for it, and it is not the
// server's age that ends it.
func keepable(s hub.Server, rule hub.CullRule) bool {
	return rule.Extend > 0 && (rule.MaxAge <= 0 || s.CullAt.Before(s.Started.Add(rule.MaxAge)))
}
