"""Three readings of one hidden fact: is the place of the called object stored, can it be rendered, is it used?"""
