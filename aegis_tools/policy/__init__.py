"""Policy text to rules: parse, lint, sign, verify, resolve, plan. No kernel but stat(2)."""
