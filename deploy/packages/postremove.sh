#!/bin/sh
set -e
if [ -n "$DPKG_ROOT" ] || [ ! -d /run/systemd/system ]; then exit 0; fi
systemctl daemon-reload
