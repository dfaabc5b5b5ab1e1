"""Planning on what a world model remembers.

perception.py   looking around inside a state: points
goal_finder.py  from a goal of any kind to ranked places: the vote by colour, and yours
body.py         what lengths are measured in
mapping.py      what is free, occupied or unknown, and the way through it
belief.py       both, for one agent in one episode
objective.py    what imagined action sequences cost: the planner's own objective, and yours
action_plan.py  distributions over action sequences; `search.py` moves them to what is cheap (MPPI, CEM)
planner.py      the agent that puts these together
"""
