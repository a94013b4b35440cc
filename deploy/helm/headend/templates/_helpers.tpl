{{- define "headend.name" -}}
{{- if contains "headend" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-headend" (.Release.Name | trunc 42 | trimSuffix "-") }}{{ end -}}
{{- end }}

{{- define "headend.selector" -}}
app.kubernetes.io/name: headend
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "headend.labels" -}}
{{ include "headend.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "headend.claim" -}}
{{ .Values.persistence.existingClaim | default (include "headend.name" .) }}
{{- end }}
