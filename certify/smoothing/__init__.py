"""Randomized smoothing: certificates, with a probability of error, for classifiers of any size.

The smoothed classifier answers what its base classifier answers most often under noise. `Smoothed` counts, a `Plan`
says how often, `Noise` what the counts prove; `certify.check.counts` replays that.
"""
