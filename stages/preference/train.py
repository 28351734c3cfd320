"""Preference optimisation: data, policy, TRL's trainer, a check of the reference, train, save."""

from dataclasses import replace

from stages.base import StageContext, StageResult
from stages.evaluate.early_stop import open_early_stop
from stages.hand_over import save_policy
from stages.models import load_policy, without_dropout
from stages.params import MOST_FOR_EVA, begin_by_data
from stages.preference.config import PreferenceStage
from stages.preference.loss_config import KTOLoss
from stages.preference.monitor import MonitorCallback
from stages.preference.objective import Objective
from stages.preference.paired import Paired
from stages.preference.unpaired import Unpaired
from stages.trainer import train


def run(config: PreferenceStage, context: StageContext) -> StageResult:
    """Teach the policy to prefer the better answers; the reference is the policy that the stage starts from."""
    objective: Objective = Unpaired() if isinstance(config.loss, KTOLoss) else Paired()
    rows = kept_apart = objective.load(config, context)
    if config.held_out:
        rows, kept_apart = objective.split(rows, config.held_out, context.seed)
    policy = load_policy(context)
    without_dropout(policy.model)  # two passes over the same tokens must agree, whatever the mode
    trainer = objective.trainer(rows, policy, config, context)
    begin_by_data(trainer.model, config.params, objective.token_ids(trainer, num=MOST_FOR_EVA))
    policy = replace(policy, model=trainer.model)
    start = objective.check_start(trainer, policy, context)
    if config.monitor is not None:
        watched = objective.watched(kept_apart, policy, config)
        if watched.good and watched.bad:  # else nothing of them is left after their prompts
            trainer.add_callback(MonitorCallback(watched, policy, config.monitor, config.loss.beta, context))
    with open_early_stop(config.early_stop, context, policy) as early_stop:
        version = train(trainer, config, context, early_stop)
    save_policy(
        context,
        policy,
        version=version,
        data=list(config.datasets().items()),
        probes=objective.token_ids(trainer, num=16),
    )
    return StageResult(
        metrics={
            "train/steps": version,
            **trainer.reference.report(),
            **(early_stop.report() if early_stop is not None else {}),
            **objective.report(rows, trainer),
            **start,
        }
    )
