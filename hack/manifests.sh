#!/usr/bin/env bash
# Renders the chart into everything under deploy/ that is made from it:
# deploy/manifests, the monitoring component, the ClusterResourceSet for Cluster
# API, the Palette pack, and the tables of values. `make manifests` runs it; CI
# fails if it changes anything. Takes the command for Helm.
#
# The archive of the chart within the pack is made as well; what is built is in no
# commit.
set -euo pipefail
cd "$(dirname "$0")/../deploy"
helm=("$@")
name=arp-cache-cleaner
version=$(sed -n 's/^version: //p' chart/Chart.yaml)
app=$(sed -n 's/^appVersion: //p' chart/Chart.yaml)
note="# Rendered from deploy/chart by \`make manifests\`: change it there."

# A version, as that of a Helm that was built with `go run` is one that the chart
# refuses. What kubectl applies is not Helm's to manage.
render() {
  "${helm[@]}" template $name chart --namespace $name --kube-version 1.36.0 --skip-tests "$@" |
    grep -v '^ *app.kubernetes.io/managed-by: Helm$'
}

(cd .. && go run ./hack/valuesdoc deploy/chart/values.yaml charts.$name. deploy/chart/README.md deploy/palette/$name-*/README.md)

{
  echo "$note"
  render --set namespace.create=true
} >manifests/$name.yaml

{
  echo "$note"
  render --set monitoring.enabled=true \
    --show-only templates/podmonitor.yaml --show-only templates/prometheusrule.yaml --show-only templates/dashboard.yaml
} >components/monitoring/monitoring.yaml

{
  cat <<EOF
$note
#
# On a Cluster API management cluster, in the namespace of the Clusters:
#
#   kubectl --namespace NAMESPACE apply -f cluster-resource-set.yaml
#
# From then on every Cluster there with the label $name=enabled has the
# agent, and follows this file. The API is served since Cluster API 1.11; before
# that, write addons.cluster.x-k8s.io/v1beta1.
apiVersion: addons.cluster.x-k8s.io/v1beta2
kind: ClusterResourceSet
metadata:
  name: $name
  labels:
    app.kubernetes.io/name: $name
spec:
  strategy: Reconcile
  clusterSelector:
    matchLabels:
      $name: enabled
  resources:
    - kind: ConfigMap
      name: $name
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: $name
  labels:
    app.kubernetes.io/name: $name
data:
  $name.yaml: |
EOF
  sed 's/^\(.\)/    \1/' manifests/$name.yaml
} >cluster-api/cluster-resource-set.yaml

# The pack of another version is not this chart's.
for old in palette/$name-*; do
  [ "$old" = "palette/$name-$version" ] || git mv "$old" "palette/$name-$version"
done
pack=palette/$name-$version
mkdir -p "$pack/charts"
rm -f "$pack"/charts/*
# What helm package does, without the time of day in it.
tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=a=rX,u+w --exclude-from=chart/.helmignore \
  --transform "s,^chart,$name," chart | gzip -9 --no-name >"$pack/charts/$name-$version.tgz"

cat >"$pack/pack.json" <<EOF
{
  "addonType": "system app",
  "annotations": {
    "contributor": "arp-cache-cleaner",
    "docsURL": "https://github.com/arp-cache-cleaner/arp-cache-cleaner",
    "source": "community"
  },
  "charts": [
    "charts/$name-$version.tgz"
  ],
  "cloudTypes": [
    "vsphere"
  ],
  "constraints": {
    "dependencies": [
      {
        "layer": "k8s",
        "maxVersion": "",
        "minVersion": "1.21.0",
        "packName": "kubernetes",
        "type": "optional"
      }
    ]
  },
  "displayName": "ARP Cache Cleaner",
  "layer": "addon",
  "name": "$name",
  "version": "$version"
}
EOF

{
  cat <<EOF
$note
pack:
  # Images for Palette to put into air-gapped bundles.
  content:
    images:
      - image: ghcr.io/$name/$name:$app
  # A namespace of the pack's own: Palette removes it with the profile.
  namespace: $name
  # hostNetwork and CAP_NET_ADMIN are beyond the baseline profile.
  namespaceLabels:
    $name: pod-security.kubernetes.io/enforce=privileged,pod-security.kubernetes.io/audit=privileged,pod-security.kubernetes.io/warn=privileged
  # Before whatever else an add-on layer installs.
  spectrocloud.com/install-priority: "-100"

charts:
  $name:
EOF
  sed 's/^\(.\)/    \1/' chart/values.yaml
} >"$pack/values.yaml"
