"""Documents → ir: references, defaults, conflicts, specificity. Pure; returns every problem, not the first."""
