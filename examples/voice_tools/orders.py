"""Node `orders`: the tool that looks up an order."""

from agentfield import Agent

app = Agent(node_id="orders")

SHIPMENTS = {"427": "stuck in customs", "512": "out for delivery"}


@app.reasoner()
async def lookup_order(order_number: str) -> dict:
    """Look up where an order is: the status of its shipment and delivery.

    Args:
        order_number: The number of the order, digits only.
    """
    status = SHIPMENTS.get(order_number)
    if status is None:
        return {"message": f"I could not find order {order_number}."}
    return {"message": f"Order {order_number} is {status}.", "order_number": order_number, "status": status}


app.run()
