"""Order, placement, resume and the command line.

recipe.yaml -> config (RunConfig, frozen) -> graph (edges from what each stage says it reads)
  -> preflight (data, templates, rewards) -> plan (config + state -> run or skip, and why)
  -> launch (Ray) -> stages.<kind>.run(config, context) -> state (run.json) -> the next stage's inputs
"""
