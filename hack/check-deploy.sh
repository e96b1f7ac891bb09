#!/usr/bin/env bash
# What has to hold for everything under deploy/, without a cluster. `make
# check-deploy` runs it.
set -euo pipefail
cd "$(dirname "$0")/.."
name=arp-cache-cleaner
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

fail() { echo "check-deploy: $*" >&2; exit 1; }
template() { $HELM template $name deploy/chart --namespace $name "$@"; }
conform() { $KUBECONFORM -strict -summary -schema-location 'hack/schemas/{{.ResourceKind}}{{.KindSuffix}}.json' "$@"; }
expect() { grep -qF -- "$1" "$tmp/out.yaml" || fail "$2: rendered no $1"; }

echo "== chart"
$HELM lint --strict --quiet deploy/chart

# Whatever the values, the API server has to take what comes out.
cat >"$tmp/all.yaml" <<'EOF'
image: {registry: registry.example:5000, repository: mirror/arp-cache-cleaner, tag: v9, pullSecrets: [pull]}
interval: 1m30s
act: always
vip: {addresses: ["2001:db8::100", vip.example], port: 443}
ports: {metrics: 19330, health: 19331}
webConfigSecret: metrics-tls
extraArgs: [--exclude-interface=docker0, --log-format=json]
resources: {requests: {cpu: 5m, memory: 32Mi}, limits: {memory: 128Mi}}
nodeSelector: {kubernetes.io/os: linux, pool: canary}
tolerations: [{key: node.kubernetes.io/unschedulable, operator: Exists}]
priorityClassName: system-node-critical
seLinuxOptions: {type: spc_t}
namespace: {create: true}
monitoring:
  enabled: true
  labels: {release: monitoring}
  endpoint: {scheme: https, tlsConfig: {insecureSkipVerify: true}}
EOF
template | conform -
template --values "$tmp/all.yaml" >"$tmp/out.yaml"
conform "$tmp/out.yaml"
for want in 'image: registry.example:5000/mirror/arp-cache-cleaner:v9' 'value: 102MiB' 'value: "2001:db8::100,vip.example"' \
  'secretName: metrics-tls' 'type: spc_t' 'release: monitoring' 'scheme: https' 'value: ":19330"'; do
  expect "$want" "all values"
done
digest=sha256:$(printf '0%.0s' {1..64})
template --set image.tag=v9,image.digest="$digest" >"$tmp/out.yaml"
expect "image: ghcr.io/$name/$name@$digest" "digest"
# Empty means absent, not null.
template --set-json 'tolerations=[],nodeSelector={},resources={}' --set resources.limits=null --set resources.requests=null | conform -
# What is no value is refused, by name.
while read -r bad says; do
  if template --set "$bad" >/dev/null 2>"$tmp/error"; then fail "values.schema.json accepts $bad"; fi
  grep -qF -- "$says" "$tmp/error" || fail "$bad: Helm does not say $says: $(cat "$tmp/error")"
done <<'EOF'
image.registry= at '/image/registry': minLength: got 0, want 1
image.digest=latest at '/image/digest': 'latest' does not match pattern '^(sha256:[0-9a-f]{64})?$'
interval=300 at '/interval': got number, want string
interval=300x at '/interval': '300x' does not match pattern
act=maybe at '/act': value must be one of 'always', 'vsphere', 'never'
vip.addresses[0]=10.0.0.1\,10.0.0.2 at '/vip/addresses/0': '10.0.0.1,10.0.0.2' does not match pattern '^[^,]+$'
vip.port=0 at '/vip/port': minimum: got 0, want 1
ports.metrics=http at '/ports/metrics': got string, want integer
extraArgs[0]=interval at '/extraArgs/0': 'interval' does not match pattern '^--'
resources.limits.memory=64M at '/resources/limits/memory': '64M' does not match pattern '^[1-9][0-9]*Mi$'
monitoring.interval=1h at '/monitoring/interval': '1h' does not match pattern '^[0-9]+(s|m)$'
no.such=value at '': additional properties 'no' not allowed
EOF

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
$HELM template $name "$pack"/charts/*.tgz --namespace $name --values "$tmp/values.yaml" | diff - <(template) || fail "the pack differs from the chart"

version=$(sed -n 's/^appVersion: //p' deploy/chart/Chart.yaml)
if grep -o 'ref=[^"]*' deploy/kustomization.yaml | grep -vx "ref=$version"; then fail "deploy/kustomization.yaml shows another version than $version"; fi

echo "== alerts"
command -v promtool >/dev/null || fail "promtool is missing: it comes with Prometheus"
promtool check rules deploy/chart/files/alerts.yaml
promtool test rules deploy/alerts_test.yaml

echo "== workflows"
$ACTIONLINT
