#!/usr/bin/env bash
# Holds the pure rooms, and the pure files of the others, to their coverage:
# hack/coverage.sh [profile], a profile of `go test -coverprofile`, or a new one.
set -euo pipefail
cd "$(dirname "$0")/.."
least=95
rooms="announce/ neigh/ policy/ report/ shield/ status/ vip/tracker.go vip/attempts.go vip/connections.go vip/evidence.go
	vip/holders.go vip/judge.go vip/plan.go
	solicit/arp.go solicit/nd.go solicit/filter.go kernel/decode.go kernel/encode.go machine/gaps.go"

profile=${1:-}
if [ -z "$profile" ]; then
	profile=$(mktemp); trap 'rm -f "$profile"' EXIT
	go test -short -parallel 12 -coverprofile="$profile" $(for r in $rooms; do echo "./pkg/${r%%/*}"; done | sort -u)
fi

# Lines are file:from,to statements count. A block may stand there several times.
awk -v rooms="$rooms" -v least="$least" '
	BEGIN { n = split(rooms, room) }
	FNR > 1 {
		split($1, at, ":")
		for (i = 1; i <= n; i++) if (index(at[1], "/pkg/" room[i])) {
			if (!($1 in statements)) { statements[$1] = $2; of[$1] = i; all[i] += $2 }
			if ($3 > 0 && !($1 in covered)) { covered[$1]; hit[i] += $2 }
		}
	}
	END {
		for (i = 1; i <= n; i++) {
			percent = all[i] ? 100 * hit[i] / all[i] : 0
			printf "%-22s %5.1f%%\n", room[i], percent
			if (percent < least) { printf "%s: less than %d%%\n", room[i], least; bad = 1 }
		}
		exit bad
	}' "$profile"
