{{/*
What the operator does in the namespaces that it looks after. It holds neither `escalate` nor `bind`: the API server lets it
make a Role only of rights that it has itself. The Role of a cluster's pods (get and patch of one Service) is part of these.
Objects are made by server-side apply, which is `create` for new ones and `patch`. What is not deleted here goes with its
cluster, by the garbage collector.
*/}}
{{- define "kingbus.rules" -}}
- apiGroups: [kingbus.io]
  resources: [binlogclusters]
  verbs: [get, list, watch]
- apiGroups: [kingbus.io]
  resources: [binlogclusters/status]
  verbs: [get, patch]
# An ownerReference with blockOwnerDeletion takes this right where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [kingbus.io]
  resources: [binlogclusters/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
# Secrets: a cluster's certificates and token are made; whether credentials that a spec names are there is looked at.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, secrets]
  verbs: [get, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, create, patch]
# Made and taken away as the spec says, where the Prometheus operator and cert-manager are installed.
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors, prometheusrules]
  verbs: [get, create, patch, delete]
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, create, patch, delete]
# Patched: role labels. Deleted: those that are of no use. All others are restarted by eviction, which asks the PDB.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, patch, delete]
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# Patched: when storage.size grows. Deleted: when the volume is lost, so that the pod begins anew.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end -}}
