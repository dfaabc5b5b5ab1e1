"""Everything that judges a world model: metrics, protocols, statistics and the report.

A model is judged through `embodied_liftwm.protocols.WorldModel` alone. Each protocol returns rows, one per thing measured and
none averaged away; `summary` turns rows into figures with intervals, `report` into a page.
"""
