{{/* The longest name that leaves room for what a Deployment puts behind it in its pods' names. */}}
{{- define "kotae.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 46 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "kotae.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kotae.labels" -}}
{{ include "kotae.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* What every object but pods begins with. */}}
{{- define "kotae.metadata" -}}
name: {{ include "kotae.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "kotae.labels" . | nindent 2 }}
{{- end -}}

{{- define "kotae.image" -}}
{{- $tag := printf "%s%s" .Chart.AppVersion (ternary (ternary "-tensorrt" "-gpu" (eq .Values.gpu.provider "tensorrt")) "" .Values.gpu.enabled) -}}
{{- printf "%s:%s" .Values.image.repository (default $tag .Values.image.tag) -}}
{{- end -}}

{{- define "kotae.serviceAccountName" -}}
{{- default (ternary (include "kotae.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* "off" or "required"; an unquoted off in a values file is YAML's false. */}}
{{- define "kotae.authMode" -}}
{{- ternary "off" .Values.auth.mode (eq (toString .Values.auth.mode) "false") -}}
{{- end -}}

{{/* The least number of pods that will run. */}}
{{- define "kotae.leastPods" -}}
{{- ternary .Values.replicaCount .Values.autoscaling.minReplicas (eq .Values.autoscaling.kind "none") -}}
{{- end -}}

{{/* The port of /metrics. */}}
{{- define "kotae.metricsPort" -}}
{{- ternary "operations" "http" (gt (int .Values.operationsPort) 0) -}}
{{- end -}}

{{- define "kotae.claimName" -}}
{{- default (printf "%s-models" (include "kotae.fullname" .)) .Values.models.pvc.existingClaim -}}
{{- end -}}

{{/* How a monitor scrapes. */}}
{{- define "kotae.scrape" -}}
- port: {{ include "kotae.metricsPort" . }}
  path: /metrics
  interval: {{ .Values.monitor.interval }}
  {{- with .Values.monitor.keySecret }}
  authorization:
    type: Bearer
    credentials: {name: {{ . }}, key: key}
  {{- end }}
{{- end -}}
