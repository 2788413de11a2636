package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"carrel/hub"
	"carrel/internal/config"
)

// watchConfig reads the configuration anew on SIGHUP and when the file changes; a bad one is told of
// and the last good one kept.
func (d *deployment) watchConfig(ctx context.Context, f *flags, policy *atomic.Pointer[hub.Policy]) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	modified := func() time.Time {
		if info, err := os.Stat(f.config); err == nil {
			return info.ModTime()
		}
		return time.Time{}
	}
	last := modified()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-hup:
		case <-tick.C:
			if f.config == "" || modified().Equal(last) {
				continue
			}
		}
		last = modified()
		d.reload(ctx, f, policy)
	}
}

// reload reads the configuration anew.
func (d *deployment) reload(ctx context.Context, f *flags, policy *atomic.Pointer[hub.Policy]) {
	notifyReloading()
	defer notifyReady()
	cfg, faults := config.Load(f.config, os.Environ(), machine())
	if len(faults) > 0 {
		for _, fault := range faults {
			d.logger.ErrorContext(ctx, "configuration not reloaded: the last good one stays", "fault", fault.String())
		}
		return
	}
	kernel := d.cfg.Image.Name
	if kernel == "" {
		opts, err := d.imageOptions()
		if err != nil {
			d.logger.ErrorContext(ctx, "configuration not reloaded: the last good one stays", "error", err)
			return
		}
		kernel = opts.Name()
	}
	p := cfg.Policy(kernel, policy.Load().MachineMemory)
	p.Visits.Captcha = policy.Load().Visits.Captcha // what checks it was made at the start
	policy.Store(&p)
	d.logger.InfoContext(ctx, "configuration reloaded", "profiles", len(p.Profiles), "file", filepath.Base(f.config))
}
