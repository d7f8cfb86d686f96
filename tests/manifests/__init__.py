"""Reading Kubernetes manifests in tests: finding objects, what the restricted Pod Security Standard says of a pod."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Object = dict[str, object]


def mapping(value: object) -> Object:
    """The value, which must be a mapping."""
    assert isinstance(value, dict), value
    return value


def mappings(value: object) -> list[Object]:
    """The value, which must be a list of mappings; nothing is an empty list."""
    assert value is None or isinstance(value, list), value
    return [mapping(item) for item in value or []]


def strings(value: object) -> list[str]:
    """The value, which must be a list; nothing is an empty list."""
    assert value is None or isinstance(value, list), value
    return [str(item) for item in value or []]


def metadata(item: Object) -> Object:
    return mapping(item["metadata"])


def find(objects: Iterable[Object], kind: str, name: str) -> Object:
    """The one object of that kind and name."""
    found = [item for item in objects if item["kind"] == kind and metadata(item)["name"] == name]
    assert len(found) == 1, (kind, name, [(item["kind"], metadata(item)["name"]) for item in objects])
    return found[0]


def pod_spec(item: Object) -> Object:
    """The pod's spec in a Pod, or in anything with a template."""
    spec = mapping(item["spec"])
    return spec if item["kind"] == "Pod" else mapping(mapping(spec["template"])["spec"])


def containers(spec: Object) -> list[Object]:
    return mappings(spec["containers"]) + mappings(spec.get("initContainers"))


def grants(rules: Iterable[Object]) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of all rules that are not restricted to names."""
    return {
        (group, resource, verb)
        for rule in rules
        if "resourceNames" not in rule
        for group in strings(rule["apiGroups"])
        for resource in strings(rule["resources"])
        for verb in strings(rule["verbs"])
    }


def violations(spec: Object) -> Iterator[str]:
    """What keeps a pod from the restricted Pod Security Standard, and from a read-only root file system."""
    whole = mapping(spec.get("securityContext", {}))
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in mappings(spec.get("volumes")):
        if not set(volume) - {"name"} <= allowed:
            yield f"volume {volume}"
    for container in containers(spec):
        name = container["name"]
        own = mapping(container.get("securityContext", {}))
        both = whole | own
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: allowPrivilegeEscalation"
        if strings(mapping(own.get("capabilities", {})).get("drop")) != ["ALL"]:
            yield f"{name}: capabilities"
        if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
            yield f"{name}: runAsNonRoot"
        if mapping(both.get("seccompProfile", {})).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name}: seccompProfile"
        if own.get("privileged"):
            yield f"{name}: privileged"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{name}: readOnlyRootFilesystem"
