// What a person did with an item, told to the service; each event has an id of its own, so none counts twice.

import { post } from "./api.js";
import { state, uuid } from "./state.js";

/**
 * @param itemId the item or made thing
 * @param kind like, skip or report
 * @param list the reply that showed it; null where it was not on a list
 */
export async function sendFeedback(itemId, kind, list = null) {
  const event = { event_id: uuid(), user_id: state.owner, item_id: itemId, kind, time: Date.now() / 1000 };
  if (list?.list_id) {
    event.list_id = list.list_id;
    event.position = list.items.findIndex((other) => other.item_id === itemId);
  }
  await post("v1/feedback", { events: [event] });
}
