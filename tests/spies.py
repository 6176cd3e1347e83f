"""What the training loop does at each step, seen from outside."""


def steps_of(trainer):
    """(step, samples so far, true batch, lr) of each step that the trainer makes, to its end."""
    done, gradients, update = [], trainer.task.gradients, trainer.update

    def spy_gradients(step, samples, batch_size):
        done.append([step + 1, samples + batch_size, batch_size])
        return gradients(step, samples, batch_size)

    def spy_update(found, lr):
        done[-1].append(lr)
        update(found, lr)

    trainer.task.gradients, trainer.update = spy_gradients, spy_update
    trainer.rows()
    while trainer.status == "running":
        trainer.advance()
        trainer.rows()
    return [tuple(row) for row in done]
