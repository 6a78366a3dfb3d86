"""What tests stand on: a real Envoy, a real Redis, real processes of ours, and a service that does as it is told."""
