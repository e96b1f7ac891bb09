#!/usr/bin/env bash
# What has to hold for everything under deploy/, without a cluster. `make
# check-deploy` runs it.
set -euo pipefail
cd "$(dirname "$0")/.."
name=arp-cache-cleaner
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

fail() { echo "check-deploy: $*" >&2; exit 1; }
kube=1.36.0 # a Helm that was built with `go run` takes 1.20 for granted, which the chart refuses
template() { $HELM template $name deploy/chart --namespace $name --kube-version $kube "$@"; }
conform() { $KUBECONFORM -strict -summary -schema-location 'hack/schemas/{{.ResourceKind}}{{.KindSuffix}}.json' "$@"; }
expect() { grep -qF -- "$1" "$tmp/out.yaml" || fail "$2: rendered no $1"; }

echo "== chart"
$HELM lint --strict --quiet --kube-version $kube deploy/chart

# Whatever the values, the API server has to take what comes out.
cat >"$tmp/all.yaml" <<'EOF'
image: {registry: registry.example:5000, repository: mirror/arp-cache-cleaner, tag: v9, pullPolicy: Always, pullSecrets: [pull]}
interval: 1m30s
act: always
announce: start
vip: {addresses: ["2001:db8::100", vip.example], port: 443}
ports: {metrics: 19330, health: 19331}
webConfigSecret: metrics-tls
extraArgs: [--exclude-interface=docker0, --log-format=json, --vip-ca-file=/etc/vip-ca/ca.crt]
extraEnv: [{name: GODEBUG, value: netdns=go}]
extraVolumes: [{name: vip-ca, configMap: {name: vip-ca}}]
extraVolumeMounts: [{name: vip-ca, mountPath: /etc/vip-ca, readOnly: true}]
resources: {requests: {cpu: 5m, memory: 32Mi}, limits: {memory: 128Mi}}
nodeSelector: {kubernetes.io/os: linux, pool: canary}
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: edge, operator: DoesNotExist}]}]}}}
tolerations: [{key: node.kubernetes.io/unschedulable, operator: Exists}]
updateStrategy: {rollingUpdate: {maxUnavailable: 2}}
priorityClassName: system-node-critical
seLinuxOptions: {type: spc_t}
serviceAccount: {annotations: {team: network}}
openshift: {securityContextConstraints: true}
commonLabels: {team: network, release: everywhere}
podLabels: {team: nodes}
podAnnotations: {prometheus.io/scheme: https, prometheus.io/port: "9"}
namespace: {create: true}
monitoring:
  enabled: true
  scrapeAnnotations: true
  labels: {release: monitoring}
  endpoint:
    scheme: https
    interval: 10s
    tlsConfig: {insecureSkipVerify: true}
    relabelings: [{targetLabel: cluster, replacement: prod}]
EOF
template | conform -
template --values "$tmp/all.yaml" >"$tmp/out.yaml"
conform "$tmp/out.yaml"
for want in 'image: registry.example:5000/mirror/arp-cache-cleaner:v9' 'value: 102MiB' 'value: "2001:db8::100,vip.example"' \
  'secretName: metrics-tls' 'type: spc_t' 'release: monitoring' 'release: everywhere' 'scheme: https' 'value: ":19330"' 'value: start' 'value: netdns=go' \
  'mountPath: /etc/vip-ca' 'maxUnavailable: 2' 'team: nodes' 'targetLabel: cluster' 'targetLabel: node' 'interval: 10s' \
  'prometheus.io/port: "9"' 'prometheus.io/scrape: "true"' "system:serviceaccount:$name:$name"; do
  expect "$want" "all values"
done
# Names that YAML takes for something else, and empty values that mean absent.
while read -r namespace good; do
  template --namespace "$namespace" --set monitoring.enabled=true --set-json "$good" >"$tmp/out.yaml" || fail "$good does not render"
  conform "$tmp/out.yaml" >"$tmp/summary" || fail "$good: $(cat "$tmp/summary")"
done <<'EOF'
on interval="1h0m0s"
1 tolerations=[],nodeSelector={},resources={},affinity={}
a tolerations=null,nodeSelector=null,affinity=null,extraArgs=null,extraEnv=null,extraVolumes=null,extraVolumeMounts=null
a resources=null,commonLabels=null,podLabels=null,podAnnotations=null,seLinuxOptions=null,priorityClassName=null,webConfigSecret=null
a resources={"limits":null,"requests":null}
a resources={"limits":{"memory":null}}
a monitoring.labels=null,monitoring.dashboardLabels=null,monitoring.endpoint=null
a monitoring.podMonitor=false,monitoring.rules=false
a updateStrategy={"type":"OnDelete","rollingUpdate":null}
a updateStrategy={"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":null}}
a vip.addresses=["none"]
a vip.addresses=["auto","10.0.0.100","[2001:db8::1]:443"]
a serviceAccount={"create":false,"name":"default"}
a enabled=false,global={"any":"thing"}
EOF
template --set monitoring.enabled=true,monitoring.podMonitor=false,monitoring.rules=false >"$tmp/out.yaml"
expect "grafana_dashboard" "a dashboard alone"
if grep -q 'kind: PodMonitor\|kind: PrometheusRule' "$tmp/out.yaml"; then fail "monitoring.podMonitor or monitoring.rules is no switch"; fi
template --set resources.limits.memory=1Gi >"$tmp/out.yaml"
expect 'value: 819MiB' "a limit in Gi"
digest=sha256:$(printf '0%.0s' {1..64})
template --set image.tag=v9,image.digest="$digest" >"$tmp/out.yaml"
expect "image: ghcr.io/$name/$name@$digest" "digest"
# The labels that a DaemonSet selects by can never change: an upgrade would fail.
[ "$(template --set commonLabels.team=network --set podLabels.team=nodes |
  sed -n '/^    matchLabels:/,/^  minReady/p' | grep '^      ')" = "      app.kubernetes.io/name: $name" ] ||
  fail "the DaemonSet selects by more than its name"
# What is no value is refused, by name.
while read -r bad says; do
  if template --set "$bad" >/dev/null 2>"$tmp/error"; then fail "the chart accepts $bad"; fi
  grep -qF -- "$says" "$tmp/error" || fail "$bad: Helm does not say $says: $(cat "$tmp/error")"
done <<'EOF'
image=null at '': missing property 'image'
image.registry= at '/image/registry': minLength: got 0, want 1
image.registry=null at '/image': missing property 'registry'
image.digest=latest at '/image/digest': 'latest' does not match pattern '^(sha256:[0-9a-f]{64})?$'
image.pullPolicy=Sometimes at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'
interval=300 at '/interval': got number, want string
interval=300x at '/interval': '300x' does not match pattern
interval=0s at '/interval': '0s' does not match pattern
interval=500ms at '/interval': '500ms' does not match pattern
interval=null at '': missing property 'interval'
act=maybe at '/act': value must be one of 'always', 'vsphere', 'never'
act=null at '': missing property 'act'
announce=always at '/announce': value must be one of 'never', 'start'
announce=null at '': missing property 'announce'
vip=null at '': missing property 'vip'
vip.addresses[0]=10.0.0.1\,10.0.0.2 at '/vip/addresses/0': '10.0.0.1,10.0.0.2' does not match pattern
vip.addresses[0]=10.0.0.0/8 at '/vip/addresses/0': '10.0.0.0/8' does not match pattern
vip.addresses={none,10.0.0.1} at '/vip/addresses/1': value must be 'none'
vip.addresses={auto,none} at '/vip/addresses/0': value must be 'none'
vip.port=0 at '/vip/port': minimum: got 0, want 1
ports.metrics=http at '/ports/metrics': got string, want integer
ports.metrics=10331 ports.metrics and ports.health are both 10331: they have to differ
ports.health=null at '/ports': missing property 'health'
extraArgs[0]=interval at '/extraArgs/0': 'interval' does not match pattern '^--[a-z]'
extraEnv[0].name=ARP_CACHE_CLEANER_VIP extraEnv: ARP_CACHE_CLEANER_VIP: the chart has a value for it
extraEnv[0].value=1 at '/extraEnv/0': missing property 'name'
extraVolumeMounts[0].name=vip-ca at '/extraVolumeMounts/0': missing property 'mountPath'
resources.limits.memory=64M at '/resources/limits/memory': '64M' does not match pattern '^[1-9][0-9]*(Mi|Gi)$'
updateStrategy.type=Recreate at '/updateStrategy/type': value must be one of 'RollingUpdate', 'OnDelete'
updateStrategy.rollingUpdate.maxSurge=1 at '/updateStrategy/rollingUpdate': additional properties 'maxSurge' not allowed
updateStrategy.rollingUpdate.maxUnavailable=0 at '/updateStrategy/rollingUpdate/maxUnavailable': minimum: got 0, want 1
serviceAccount.name= at '/serviceAccount/name': minLength: got 0, want 1
commonLabels.app\.kubernetes\.io/name=x commonLabels: app.kubernetes.io/name is a label of the chart's own
podLabels.app\.kubernetes\.io/instance=x podLabels: app.kubernetes.io/instance is a label of the chart's own
monitoring.interval=1h at '/monitoring/interval': '1h' does not match pattern
monitoring.interval=0s at '/monitoring/interval': '0s' does not match pattern
no.such=value at '': additional properties 'no' not allowed
EOF
# As a part of another chart, under a condition.
mkdir -p "$tmp/parent/charts"
cp -r deploy/chart "$tmp/parent/charts/$name"
cat >"$tmp/parent/Chart.yaml" <<EOF
apiVersion: v2
name: parent
version: 1.0.0
dependencies:
  - name: $name
    version: ">=0"
    condition: $name.enabled
EOF
for enabled in true false; do
  $HELM template parent "$tmp/parent" --kube-version $kube --set "$name.enabled=$enabled,global.registry=x" >"$tmp/out.yaml" ||
    fail "a parent's condition is refused"
  agents=$(grep -c 'kind: DaemonSet' "$tmp/out.yaml") || true
  case $enabled-$agents in true-1 | false-0) ;; *) fail "under a condition that is $enabled there are $agents DaemonSets" ;; esac
done

echo "== manifests"
conform deploy/manifests deploy/cluster-api deploy/components/monitoring/monitoring.yaml
$KUSTOMIZE build deploy | conform -
# An overlay as a user writes it, beside the repository: paths have to be relative.
mkdir "$tmp/overlay"
cat >"$tmp/overlay/kustomization.yaml" <<EOF
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [$(realpath --relative-to="$tmp/overlay" deploy)]
components:
  - $(realpath --relative-to="$tmp/overlay" deploy/components/monitoring)
  - $(realpath --relative-to="$tmp/overlay" deploy/components/system-node-critical)
images:
  - name: ghcr.io/$name/$name
    newName: registry.example/$name
EOF
$KUSTOMIZE build "$tmp/overlay" >"$tmp/out.yaml"
conform "$tmp/out.yaml"
for want in 'image: registry.example/arp-cache-cleaner:v' 'priorityClassName: system-node-critical' 'kind: PodMonitor'; do
  expect "$want" "overlay"
done
# What Cluster API applies is what kubectl applies.
sed -n '/^  arp-cache-cleaner.yaml: |$/,$p' deploy/cluster-api/cluster-resource-set.yaml | sed '1d; s/^    //' |
  diff - deploy/manifests/$name.yaml || fail "the ClusterResourceSet differs from deploy/manifests"
# The pack's chart renders with the pack's values as the chart does with its own.
pack=$(echo deploy/palette/$name-*)
sed -n "/^  $name:\$/,\$p" "$pack/values.yaml" | sed '1d; s/^    //' >"$tmp/values.yaml"
archive=$pack/charts/${pack##*/}.tgz
[ -e "$archive" ] || fail "$archive is missing: \`make manifests\` makes it"
$HELM template $name "$archive" --namespace $name --kube-version $kube --values "$tmp/values.yaml" | diff - <(template) || fail "the pack differs from the chart"

# One version everywhere.
version=$(sed -n 's/^appVersion: //p' deploy/chart/Chart.yaml)
[ "$version" = "v$(sed -n 's/^version: //p' deploy/chart/Chart.yaml)" ] || fail "the chart's version and appVersion differ"
grep -qxF "      image: ghcr.io/$name/$name:$version" deploy/chart/Chart.yaml || fail "the images for Artifact Hub are not of $version"
icon=$(sed -n "s,^icon: https://raw.githubusercontent.com/$name/$name/$version/,,p" deploy/chart/Chart.yaml)
[ -n "$icon" ] && [ -e "$icon" ] || fail "the chart's icon is no file of $version"
# What the documents have one type names this version, and values that there are.
docs="README.md docs/*.md deploy/chart/README.md deploy/kustomization.yaml"
# shellcheck disable=SC2086
if grep -noE '(--version |\bv|arp-cache-cleaner[-_])[0-9]+\.[0-9]+\.[0-9]+' $docs | grep -v "[^0-9]${version#v}\$"; then
  fail "the documents name another version than $version"
fi
# shellcheck disable=SC2086
grep -ohE -- "--set '?[^ '\`]+" $docs | sed "s/^--set '*//" | sort -u | while read -r set; do
  template --set "$set" >/dev/null || fail "the documents set $set"
done

echo "== alerts"
command -v promtool >/dev/null || fail "promtool is missing: it comes with Prometheus"
promtool check rules deploy/chart/files/alerts.yaml
promtool test rules deploy/alerts_test.yaml
# The configuration that the document proposes for machines, with these alerts.
sed -n '/^rule_files:/,/^```$/p' docs/metrics.md | sed '$d' >"$tmp/prometheus.yaml"
cp deploy/chart/files/alerts.yaml "$tmp"
promtool check config "$tmp/prometheus.yaml"

echo "== workflows"
$ACTIONLINT
