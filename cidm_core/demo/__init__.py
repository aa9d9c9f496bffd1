"""The demo: three concepts in sequence on mini-sd, and one page that shows nothing was forgotten.

The concepts are looks that mini-sd has never seen (`mini.looks`): two cats that could be mistaken
for one another, and a painting style. Everything goes through the public functions, as a user's
own program would.
"""
