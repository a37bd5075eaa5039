"""How foreign implementations are called, and what their options claim: one file for each convention."""
