#!/usr/bin/env bash
# What has to hold for bin/packages. `make check-packages` runs it, as root: it installs
# the .deb of this machine's kind into a root of its own, and runs the agent from there in
# a network namespace of its own, as the unit would: no root, and two capabilities.
set -euo pipefail
cd "$(dirname "$0")/.."
name=arp-cache-cleaner
arch=$(dpkg --print-architecture)
tmp=$(mktemp -d)
net=$name-$$
agent=
trap 'kill $agent 2>/dev/null || true; for n in a b; do ip netns del $net-$n 2>/dev/null || true; done; rm -rf "$tmp"' EXIT

fail() { echo "check-packages: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "run as root: it makes network namespaces"
for command in dpkg ip setpriv; do command -v $command >/dev/null || fail "$command is missing"; done

echo "== installed, upgraded, removed"
root=$tmp/root
mkdir -p "$root/var/lib/dpkg/"{info,updates,triggers}
: >"$root/var/lib/dpkg/status"
# The scripts run on this system (chrootless), and know by DPKG_ROOT that it is not theirs.
install() { dpkg --root="$root" --force-script-chrootless --force-not-root --log="$tmp/dpkg.log" "$@" >/dev/null; }
deb=$(echo bin/packages/${name}_*_"$arch".deb)
for step in first again; do install --install "$deb" || fail "dpkg does not install $deb: $step"; done
echo "ARP_CACHE_CLEANER_INTERVAL=2s" >>"$root/etc/default/$name"
install --force-confold --install "$deb" || fail "dpkg does not install over a changed configuration"
grep -qx "ARP_CACHE_CLEANER_INTERVAL=2s" "$root/etc/default/$name" || fail "an upgrade loses the configuration"
for other in amd64 arm64; do
  [ "$(dpkg-deb -f bin/packages/${name}_*_$other.deb Architecture)" = $other ] || fail "no .deb for $other"
  # The header of an RPM (lead): magic, and the architecture's number that nfpm writes there.
  [ "$(head -c 4 bin/packages/${name}_*_$other.rpm | od -An -tx1 | tr -d ' ')" = edabeedb ] || fail "no .rpm for $other"
done
if command -v rpm >/dev/null; then
  rpm -qp --list --scripts bin/packages/${name}_*_"$arch".rpm >"$tmp/rpm"
  for file in /usr/bin/$name /usr/lib/systemd/system/$name.service /etc/default/$name 'systemctl daemon-reload'; do
    grep -q "$file" "$tmp/rpm" || fail "the .rpm has no $file"
  done
fi

echo "== unit"
unit=$root/usr/lib/systemd/system/$name.service
if command -v systemd-analyze >/dev/null; then
  # The paths of the unit are the installed ones.
  sed "s,=/usr/bin/,=$root/usr/bin/,; s,=-/etc/,=-$root/etc/," "$unit" >"$tmp/$name.service"
  systemd-analyze verify "$tmp/$name.service" 2>"$tmp/verify" || fail "systemd-analyze verify: $(cat "$tmp/verify")"
  if grep -F "$name.service" "$tmp/verify"; then fail "systemd-analyze verify warns"; fi
  # Below 3 by any version's count; the document quotes one version's.
  systemd-analyze security --no-pager --offline=true --threshold=30 "$tmp/$name.service" >"$tmp/security" || fail "$(tail -n 1 "$tmp/security")"
  score=$(sed -n 's/.*Overall exposure level for.*: \([0-9.]* [A-Z]*\).*/\1/p' "$tmp/security")
  version=$(systemd-analyze --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
  echo "systemd-analyze security, systemd $version: $score"
  if grep -qF "(systemd $version)" docs/install.md; then
    grep -qF "$score" docs/install.md || fail "docs/install.md quotes another score than $score"
  fi
else
  echo "not verified: there is no systemd-analyze here"
fi
"$root/usr/bin/$name" --help >"$tmp/help"
while IFS='=' read -r variable value; do
  case $variable in '#'ARP_CACHE_CLEANER_* | ARP_CACHE_CLEANER_*) ;; *) continue ;; esac
  [ -n "$value" ] || continue
  # Each variable that the file sets or proposes is one, and takes the value. The last is refused, so that nothing starts.
  if env "${variable#\#}=$value" "$root/usr/bin/$name" --scan-period=1h 2>"$tmp/error"; then fail "--scan-period=1h is accepted"; fi
  grep -q -- '--scan-period' "$tmp/error" || fail "$variable=$value: $(cat "$tmp/error")"
  flag=$(sed 's/^#*ARP_CACHE_CLEANER_//; s/_/[-.]/g' <<<"$variable" | tr '[:upper:]' '[:lower:]')
  grep -q -- "--$flag\$" "$tmp/help" || fail "$variable is no flag"
done <"$root/etc/default/$name"

echo "== run without root"
for n in a b; do ip netns add $net-$n; done
ip -n $net-a link add name eth0 type veth peer name eth0 netns $net-b
for n in a b; do ip -n $net-$n link set eth0 up; ip -n $net-$n link set lo up; done
ip -n $net-a address add 10.0.0.1/24 dev eth0
ip -n $net-b address add 10.0.0.2/24 dev eth0

# as_unit CAPABILITIES runs the agent with these, as a user who has nothing else, in the
# environment that the unit gives.
as_unit() {
  local environment
  mapfile -t environment < <(sed -n 's/^Environment=//p' "$unit"; grep -v '^#' "$root/etc/default/$name" | grep .)
  exec ip netns exec $net-a setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
    --bounding-set "-all$1" --inh-caps "-all$1" --ambient-caps "-all$1" \
    env -i "${environment[@]}" "$root/usr/bin/$name"
}
capabilities=$(sed -n 's/^AmbientCapabilities=//p' "$unit" | tr '[:upper:]' '[:lower:]' | sed 's/\(^\| \)cap_/,+/g')
[ "$capabilities" = ",+net_admin,+net_raw" ] || fail "the unit gives $capabilities"
chmod 755 "$tmp"

# The control: without them it cannot work, and says why.
if (as_unit "") >"$tmp/log" 2>&1; then fail "the agent starts without capabilities"; fi
grep -q 'CAP_NET_ADMIN is missing' "$tmp/log" || fail "without capabilities the agent says: $(cat "$tmp/log")"

(as_unit "$capabilities") >"$tmp/log" 2>&1 &
agent=$!
get() { # get PORT PATH asks the agent, where there need be no curl
  ip netns exec $net-a bash -c 'exec 3<>/dev/tcp/127.0.0.1/$0 && printf "GET %s HTTP/1.0\r\n\r\n" "$1" >&3 && cat <&3' "$1" "$2" 2>/dev/null
}
until_true() { # until_true WHAT COMMAND... tries for 20 s
  local what=$1 deadline=$((SECONDS + 20))
  shift
  until "$@"; do
    kill -0 $agent 2>/dev/null || fail "the agent has ended: $(cat "$tmp/log")"
    [ $SECONDS -lt $deadline ] || fail "$what: $(cat "$tmp/log")"
    sleep 0.2
  done
}
ready() { grep -q ' 200 ' <<<"$(get 10331 /readyz)"; }
renewed() { # traffic keeps the entry in use meanwhile
  ip netns exec $net-a bash -c 'echo >/dev/udp/10.0.0.2/9' 2>/dev/null || true
  grep -q '^arp_cache_cleaner_renewals_total{device="eth0",method="broadcast",result="ok"} [1-9]' <<<"$(get 10330 /metrics)"
}
announced() { grep -q 'msg="address announced" address=10.0.0.1 device=eth0' "$tmp/log"; }
until_true "it is not ready" ready
until_true "it renews no entry" renewed
until_true "it announces no address" announced
grep -q '^Uid:.65534' /proc/$agent/status || fail "it runs as $(grep ^Uid /proc/$agent/status)"
for set in Prm Eff Bnd Amb; do
  grep -qx "Cap$set:.0000000000003000" /proc/$agent/status || fail "it has $(grep "^Cap$set" /proc/$agent/status)"
done
kill $agent
wait $agent || fail "it does not stop in order: $(cat "$tmp/log")"
agent=
echo "renewed an entry by broadcast, and announced its address, as uid 65534 with CAP_NET_ADMIN and CAP_NET_RAW alone"

install --remove $name || fail "dpkg does not remove it"
install --purge $name || fail "dpkg does not purge it"
left=$(find "$root" -type f -path "*$name*" | grep -v /var/lib/dpkg/ || true)
[ -z "$left" ] || fail "a purge leaves $left"
