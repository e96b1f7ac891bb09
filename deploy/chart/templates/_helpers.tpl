{{- /* There is one agent on a node whatever the release is called, so names are fixed. */ -}}
{{- define "arp-cache-cleaner.labels" -}}
app.kubernetes.io/name: arp-cache-cleaner
app.kubernetes.io/version: {{ .Chart.AppVersion }}
{{- end }}

{{- define "arp-cache-cleaner.image" -}}
{{- with .Values.image -}}
{{ .registry }}/{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- /* What is left of the limit is for what is not the Go heap: the program's text and stacks. */ -}}
{{- define "arp-cache-cleaner.memoryLimit" -}}
{{- with dig "limits" "memory" "" .Values.resources -}}
{{ div (mul (trimSuffix "Mi" . | atoi) 8) 10 }}MiB
{{- end }}
{{- end }}
