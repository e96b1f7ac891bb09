package main

import (
	"errors"
	"time"
)

// scenario is a way in which keepalived moves a VIP. The first host has it before
// the first step.
type scenario struct {
	name string
	do   []step
	// stays: the host that is to lose the VIP keeps it and serves on, beside the new
	// holder. The entry is to stay with it: nobody is worse off there.
	stays bool
}

// step makes keepalived move the VIP to a host: "one" or "two".
type step struct {
	name string
	to   string
	do   func(*cluster) error
	// limit is entryLimit unless it is given.
	limit time.Duration
}

var scenarios = []scenario{
	{name: "killed, and the API server too", do: []step{{name: "kill -9", to: "two", do: func(k *cluster) error {
		k.API1.Kill()
		return k.one.Crash() // the host keeps the address, and answers for it
	}}}},
	{name: "killed, the API server goes on", stays: true, do: []step{{name: "kill -9", to: "two", do: func(k *cluster) error {
		return k.one.Crash()
	}}}},
	{name: "the link of the holder is down", do: []step{{name: "link down", to: "two", do: func(k *cluster) error {
		k.One.IP("link set eth0 down")
		return nil
	}}}},
	{name: "stopped", do: []step{{name: "SIGTERM", to: "two", do: func(k *cluster) error {
		k.one.Stop()
		return nil
	}}}},
	{name: "priorities", do: []step{
		{name: "lowered", to: "two", do: func(k *cluster) error { return k.one.Prioritize(50) }},
		{name: "raised, it preempts", to: "one", do: func(k *cluster) error { return k.one.Prioritize(150) }},
	}},
	{name: "killed, started again", do: []step{
		{name: "kill -9", to: "two", do: func(k *cluster) error {
			k.API1.Kill()
			return k.one.Crash()
		}},
		{name: "started, it preempts", to: "one", do: func(k *cluster) error {
			k.API1 = k.Serve(k.One)
			var err error
			if k.one, err = k.Keepalived(k.One, 150); err != nil {
				return err
			}
			// It begins as a backup, and takes the VIP off the device.
			if !k.Has(k.One, false, takeoverLimit) {
				return errors.New("keepalived leaves the VIP where it found it")
			}
			return nil
			// It is known as one that did not serve: it is tried once the other one has
			// been silent for longer than a virtual machine that stands still.
		}, limit: 9 * time.Second},
	}},
}
