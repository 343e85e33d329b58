"""What each node does with a message."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from torch_quickstart.task import load_data, make_net
from torch_quickstart.task import test as test_net
from torch_quickstart.task import train as train_net

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Trains the model that came on this node's own data."""
    net = make_net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    trainloader, _ = load_data(
        int(context.node_config["partition-id"]), int(context.run_config["batch-size"])
    )
    loss = train_net(
        net,
        trainloader,
        int(context.run_config["local-epochs"]),
        float(context.run_config["learning-rate"]),
    )
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(trainloader.dataset)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Tests the model that came on this node's own data."""
    net = make_net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    _, testloader = load_data(
        int(context.node_config["partition-id"]), int(context.run_config["batch-size"])
    )
    loss, accuracy = test_net(net, testloader)
    metrics = MetricRecord(
        {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(testloader.dataset)}
    )
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
