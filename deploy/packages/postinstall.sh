#!/bin/sh
# After the files are in place, in a first installation and in an upgrade. Nothing is
# started unasked: an agent that runs is started over.
set -e
# Into the root of another system (dpkg --root), or where no systemd runs.
if [ -n "$DPKG_ROOT" ] || [ ! -d /run/systemd/system ]; then exit 0; fi
systemctl daemon-reload
systemctl try-restart arp-cache-cleaner.service
if ! systemctl --quiet is-enabled arp-cache-cleaner.service; then
  echo "To start the agent now and at every boot: systemctl enable --now arp-cache-cleaner"
fi
