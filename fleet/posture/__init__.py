"""What an auditor or an attacker would find in containers, images and hosts, from saved or live Docker JSON.

catalogue      the checks as data: title, severity, rationale, remedy (fleet/catalog/posture)
reading        JSON whose missing parts raise Unread
container      one inspect object
evidence       one host: containers, images, daemon; what is missing becomes "unknown", never "pass"
runtime, network, mounts, resources, gpu, secrets, images, host     the predicates, one module a family
secrets_scan   what a secret looks like, and the little that may be said about it
evaluation     predicates over evidence -> findings
compose        a compose file, in the shape of inspect
report         findings as text, JSON and SARIF
"""
