{{/* Parts of the pod that would make deployment.yaml long. */}}

{{/* The resources, with the GPU as a limit when it is on. */}}
{{- define "kotae.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if .Values.gpu.enabled -}}
{{- $gpu := dict .Values.gpu.resource .Values.gpu.count -}}
{{- $resources = mergeOverwrite $resources (dict "limits" $gpu) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Not empty where TensorRT's engines need a place. */}}
{{- define "kotae.engines" -}}
{{- if and .Values.gpu.enabled (eq .Values.gpu.provider "tensorrt") }}yes{{ end -}}
{{- end -}}

{{- define "kotae.terminationSeconds" -}}
{{- with .Values.drain -}}
{{- ceil (addf .graceSeconds .limitSeconds .marginSeconds) -}}
{{- end -}}
{{- end -}}

{{- define "kotae.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.tmpSizeLimit }}}
{{- if eq .Values.models.source "pvc" }}
- name: models
  persistentVolumeClaim: {claimName: {{ include "kotae.claimName" . }}}
{{- else if eq .Values.models.source "initContainer" }}
- name: models
  emptyDir: {}
{{- end }}
{{- if include "kotae.engines" . }}
- name: engines
  {{- if .Values.gpu.enginesClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.gpu.enginesClaim }}}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- if eq (include "kotae.authMode" .) "required" }}
- name: keys
  secret: {secretName: {{ .Values.auth.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Where pods go. */}}
{{- define "kotae.placement" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.topologySpread }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ $.Values.topologySpread }}
    labelSelector:
      matchLabels:
        {{- include "kotae.selectorLabels" $ | nindent 8 }}
        app.kubernetes.io/component: server
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end -}}
