"""One kind of work each. A stage is a function ``run(config, context) -> StageResult``: config in, artifact out."""
