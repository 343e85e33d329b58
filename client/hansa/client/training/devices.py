"""Which devices a plan may ask of a site."""

from hansa.core.errors import HansaError


class DevicesMissingError(HansaError):
    """The plan asks for more devices than the site has; nothing was spent or trained."""


def check_devices(wanted: int, *, gpus: int) -> None:
    """Accepts what the site can do: as many GPUs, or processes on the CPU where there is none.

    Args:
        wanted: the plan's ``training.devices``.
        gpus: how many GPUs this process may use.

    Raises:
        DevicesMissingError: there are GPUs, but fewer.
    """
    if wanted > 1 and 0 < gpus < wanted:
        raise DevicesMissingError(
            f"the plan trains on {wanted} devices and this site has {gpus} GPUs: add GPUs, hide "
            "them all (CUDA_VISIBLE_DEVICES=) to train on the CPU, or ask for a plan with fewer"
        )


def device_name(rank: int, *, wanted: int, gpus: int) -> str:
    """Where a rank computes, as torch names it.

    Raises:
        DevicesMissingError: there are GPUs, but fewer than wanted.
    """
    check_devices(wanted, gpus=gpus)
    return f"cuda:{rank}" if gpus else "cpu"
