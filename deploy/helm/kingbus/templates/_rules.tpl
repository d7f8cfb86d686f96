{{/*
What the operator does in the namespaces that it looks after. It holds neither `escalate` nor `bind`: the API server lets it
make a Role only of rights that it has itself. The Role of a cluster's pods (get and patch of one Service) is part of these.
*/}}
{{- define "kingbus.rules" -}}
- apiGroups: [kingbus.io]
  resources: [binlogclusters]
  verbs: [get, list, watch]
- apiGroups: [kingbus.io]
  resources: [binlogclusters/status]
  verbs: [get, patch, update]
# ownerReferences with blockOwnerDeletion need this right where the API server checks it (OwnerReferencesPermissionEnforcement).
- apiGroups: [kingbus.io]
  resources: [binlogclusters/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# Made: the clusters' certificates and tokens. Looked at: whether credentials that a spec names are there.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
# Patched: role labels. Deleted: in rolling changes, one at a time.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# Patched: when storage.size grows. Deleted: with reclaim Delete.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors, prometheusrules]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
