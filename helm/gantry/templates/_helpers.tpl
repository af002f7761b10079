{{- define "gantry.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters, so that the names of parts and pools fit behind it. */}}
{{- define "gantry.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "gantry.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "gantry.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "gantry.selector" -}}
app.kubernetes.io/name: {{ include "gantry.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "gantry.labels" -}}
{{ include "gantry.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: gantry
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "gantry.image" -}}
{{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end -}}

{{- define "gantry.secret" -}}
{{- default (include "gantry.fullname" .) .Values.secrets.existingSecret -}}
{{- end -}}

{{- define "gantry.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "gantry.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Without secrets nothing can start: said at once, and not by a pod. */}}
{{- define "gantry.check" -}}
{{- $s := .Values.secrets -}}
{{- if $s.existingSecret -}}
{{- if or $s.ownerDatabaseUrl $s.fleetDatabaseUrl $s.apiDatabaseUrl $s.brokerUrl -}}
{{- fail "secrets: give existingSecret or the addresses, not both" -}}
{{- end -}}
{{- else -}}
{{- range $key := list "fleetDatabaseUrl" "apiDatabaseUrl" "brokerUrl" -}}
{{- if not (get $s $key) -}}{{- fail (printf "secrets.%s is required, or secrets.existingSecret" $key) -}}{{- end -}}
{{- end -}}
{{- if and .Values.migration.enabled (not $s.ownerDatabaseUrl) -}}
{{- fail "secrets.ownerDatabaseUrl is required for the migration, or secrets.existingSecret, or migration.enabled=false" -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- range .Values.workers -}}
{{- if has .name $names -}}{{- fail (printf "workers: two pools are named %s" .name) -}}{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}

{{/*
One part: its ConfigMap, Deployment and PodDisruptionBudget.
  root, component, program, part (its values), databaseKey, listenVariable, port
*/}}
{{- define "gantry.part" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $name := printf "%s-%s" (include "gantry.fullname" $root) .component -}}
{{- $scaled := and .part.keda .part.keda.enabled -}}
{{- $config := default "" .part.config -}}
{{- $replicas := ternary (int .part.replicas) 1 (hasKey .part "replicas") -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  labels: {{- include "gantry.labels" . | nindent 4 }}
data:
  config.toml: {{ $config | toJson }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels: {{- include "gantry.labels" . | nindent 4 }}
spec:
  {{- if not $scaled }}
  replicas: {{ $replicas }}
  {{- end }}
  selector:
    matchLabels: {{- include "gantry.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "gantry.labels" . | nindent 8 }}
        {{- with $values.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
      annotations:
        checksum/config: {{ $config | sha256sum }}
        {{- if not $values.secrets.existingSecret }}
        checksum/secrets: {{ $values.secrets | toJson | sha256sum }}
        {{- end }}
        {{- with $values.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
    spec:
      serviceAccountName: {{ include "gantry.serviceAccount" $root }}
      automountServiceAccountToken: false
      {{- with $values.imagePullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext: {{- toYaml (mergeOverwrite (deepCopy $values.podSecurityContext) (default dict .part.podSecurityContext)) | nindent 8 }}
      terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
      containers:
        - name: {{ .program }}
          image: {{ include "gantry.image" $root }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          command: [{{ .program }}, --config, /etc/gantry/config.toml]
          env:
            - name: GANTRY_DATABASE__URL__FILE
              value: /run/secrets/gantry/database-url
            - name: GANTRY_BROKER__URL__FILE
              value: /run/secrets/gantry/broker-url
            - name: {{ .listenVariable }}
              value: "0.0.0.0:{{ .port }}"
            {{- with $values.broker.prefix }}
            - name: GANTRY_BROKER__PREFIX
              value: {{ . | quote }}
            {{- end }}
            - name: GANTRY_BROKER__SUBMISSIONS_MAX_LENGTH
              value: {{ $values.broker.submissionsMaxLength | int64 | quote }}
            - name: GANTRY_BROKER__DELIVERY_LIMIT
              value: {{ $values.broker.deliveryLimit | int64 | quote }}
            - name: GANTRY_TELEMETRY__LOG_FORMAT
              value: {{ $values.telemetry.logFormat }}
            {{- with $values.telemetry.filter }}
            - name: GANTRY_TELEMETRY__FILTER
              value: {{ . | quote }}
            {{- end }}
            {{- with $values.telemetry.otlpEndpoint }}
            - name: GANTRY_TELEMETRY__OTLP_ENDPOINT
              value: {{ . | quote }}
            {{- end }}
            {{- with .part.extraEnv }}{{ toYaml . | nindent 12 }}{{ end }}
          ports:
            - name: http
              containerPort: {{ .port }}
          # Alive asks nobody: an outage of the database must not restart the fleet.
          startupProbe:
            httpGet: { path: /healthz, port: http }
            periodSeconds: 2
            failureThreshold: 30
          livenessProbe:
            httpGet: { path: /healthz, port: http }
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet: { path: /readyz, port: http }
            periodSeconds: 5
            timeoutSeconds: 2
            failureThreshold: 3
          securityContext: {{- toYaml $values.securityContext | nindent 12 }}
          resources: {{- toYaml (default dict .part.resources) | nindent 12 }}
          volumeMounts:
            - { name: config, mountPath: /etc/gantry, readOnly: true }
            - { name: secrets, mountPath: /run/secrets/gantry, readOnly: true }
            {{- with .part.extraVolumeMounts }}{{ toYaml . | nindent 12 }}{{ end }}
      volumes:
        - name: config
          configMap:
            name: {{ $name }}
        # Of all addresses only those that this part uses.
        - name: secrets
          secret:
            secretName: {{ include "gantry.secret" $root }}
            defaultMode: 0440
            items:
              - { key: {{ .databaseKey }}, path: database-url }
              - { key: broker-url, path: broker-url }
        {{- with .part.extraVolumes }}{{ toYaml . | nindent 8 }}{{ end }}
      {{- with default $values.nodeSelector .part.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with default $values.tolerations .part.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with default $values.affinity .part.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
      # Replicas on different nodes, where there are enough.
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{- include "gantry.selector" . | nindent 14 }}
{{- if and $values.podDisruptionBudget.enabled (or $scaled (gt $replicas 1)) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  labels: {{- include "gantry.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "gantry.selector" . | nindent 6 }}
{{- end }}
{{- end -}}
