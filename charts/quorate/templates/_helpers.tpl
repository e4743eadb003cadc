{{/* The name that objects begin with. */}}
{{- define "quorate.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The name of what belongs to the whole cluster: releases of one name in two namespaces do not meet. */}}
{{- define "quorate.clusterName" -}}
{{- if eq .Release.Namespace (include "quorate.fullname" .) -}}
{{- include "quorate.fullname" . -}}
{{- else -}}
{{- printf "%s-%s" .Release.Namespace (include "quorate.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "quorate.selector" -}}
app.kubernetes.io/name: quorate
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "quorate.labels" -}}
{{ include "quorate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "quorate.serviceAccountName" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "quorate.fullname" . -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* An image: (dict "root" $ "image" .Values.agent.image). */}}
{{- define "quorate.image" -}}
{{- $name := printf "%s/%s" .root.Values.image.registry .image.repository -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* What the `restricted` pod security standard asks of a container, and a root that cannot be written. */}}
{{- define "quorate.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end -}}

{{- define "quorate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* What the operator may do where resources are. */}}
{{- define "quorate.operatorRules" -}}
- apiGroups: [quorate.dev]
  resources: [adchubs, kvclusters, tftpclusters]
  verbs: [get, list, watch]
- apiGroups: [quorate.dev]
  resources: [adchubs/status, kvclusters/status, tftpclusters/status]
  verbs: [get, patch, update]
# Owner references that block the owner's deletion.
- apiGroups: [quorate.dev]
  resources: [adchubs/finalizers, kvclusters/finalizers, tftpclusters/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts, services]
  verbs: [get, list, watch, create, patch]
# A StatefulSet is deleted, and its pods kept, when volumes grow.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch]
# Members may change their group's slice; nobody can give a right that he does not have. A forged epoch can only be deleted.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, patch, delete]
# Tokens and certificates of groups. Not `list`: other secrets are found by nobody who does not know their names.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
