"""Planning on what a world model remembers.

perception.py   looking around inside a state: points, and where the goal is among them
mapping.py      what is free, occupied or unknown, and the way through it
belief.py       both, for one agent in one episode
objective.py    what imagined action sequences cost: the planner's own objective, and yours
action_plan.py  distributions over action sequences; `search.py` moves them to what is cheap (MPPI, CEM)
planner.py      the agent that puts these together
"""
