{{- /* There is one agent on a node whatever the release is called, so names are fixed. */ -}}
{{- /* Labels of an object: what the chart and commonLabels say, and what the value given says beside. */ -}}
{{- define "arp-cache-cleaner.labels" -}}
{{- $fixed := dict "app.kubernetes.io/name" "arp-cache-cleaner" "app.kubernetes.io/instance" .root.Release.Name
  "app.kubernetes.io/version" .root.Chart.AppVersion "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- toYaml (merge $fixed (.more | default dict) (.root.Values.commonLabels | default dict)) }}
{{- end }}

{{- define "arp-cache-cleaner.image" -}}
{{- with .Values.image -}}
{{ .registry }}/{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "arp-cache-cleaner.podAnnotations" -}}
{{- $annotations := dict "kubectl.kubernetes.io/default-container" "agent" -}}
{{- if .Values.monitoring.scrapeAnnotations -}}
{{- $annotations = merge $annotations (dict "prometheus.io/scrape" "true" "prometheus.io/path" "/metrics" "prometheus.io/port" (toString .Values.ports.metrics)) -}}
{{- end -}}
{{- toYaml (merge (deepCopy (.Values.podAnnotations | default dict)) $annotations) }}
{{- end }}

{{- /* What is left of the limit is for what is not the Go heap: the program's text and stacks. */ -}}
{{- define "arp-cache-cleaner.memoryLimit" -}}
{{- with dig "limits" "memory" "" (.Values.resources | default dict) -}}
{{- $mi := trimSuffix "Mi" . | atoi -}}
{{- if hasSuffix "Gi" . }}{{ $mi = mul 1024 (trimSuffix "Gi" . | atoi) }}{{ end -}}
{{ div (mul $mi 8) 10 }}MiB
{{- end }}
{{- end }}

{{- /* What values.schema.json cannot say: what the agent refuses of values that are each one right. */ -}}
{{- define "arp-cache-cleaner.validate" -}}
{{- if eq (int .Values.ports.metrics) (int .Values.ports.health) -}}
{{- fail (printf "ports.metrics and ports.health are both %d: they have to differ" (int .Values.ports.health)) -}}
{{- end -}}
{{- $own := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" -}}
{{- range $value, $labels := dict "commonLabels" .Values.commonLabels "podLabels" .Values.podLabels
  "monitoring.labels" .Values.monitoring.labels "monitoring.dashboardLabels" .Values.monitoring.dashboardLabels -}}
{{- range $label, $_ := $labels -}}
{{- if has $label $own -}}
{{- fail (printf "%s: %s is a label of the chart's own" $value $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if or (hasPrefix "ARP_CACHE_CLEANER_" .name) (eq "GOMEMLIMIT" .name) -}}
{{- fail (printf "extraEnv: %s: the chart has a value for it, or give the flag in extraArgs" .name) -}}
{{- end -}}
{{- end -}}
{{- end }}
