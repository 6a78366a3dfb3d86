"""What users may write: one pydantic model per thing, in users' words. No YAML, no Envoy, no files."""
