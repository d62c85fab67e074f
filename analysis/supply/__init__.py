"""Which method for how many demonstrations and how much compute?"""
