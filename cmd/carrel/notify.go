package main

import (
	"fmt"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// What systemd is told (sd_notify(3)); nobody else listens, and then it goes nowhere.

func notify(state string) { _, _ = daemon.SdNotify(false, state) } // a manager that does not hear is none

func notifyReady() { notify(daemon.SdNotifyReady) }

func notifyStopping() { notify(daemon.SdNotifyStopping) }

// notifyReloading is followed by READY; the time tells systemd which of several reloads that ends.
func notifyReloading() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it always works
	notify(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// notifySucceeded names the process that the service is from now on.
func notifySucceeded(pid int) { notify(fmt.Sprintf("MAINPID=%d\n%s", pid, daemon.SdNotifyReady)) }
