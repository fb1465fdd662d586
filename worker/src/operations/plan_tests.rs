use super::*;

fn queue() -> Declaration {
    let binding = Some(("pinion".to_owned(), "orders".to_owned()));
    Declaration::Queue { name: "pinion.orders".to_owned(), arguments: Vec::new(), binding }
}

#[test]
fn a_plan_says_what_is_to_be_done_and_what_is_not() {
    assert_eq!(Plan::default().to_string(), "Nothing to do.");
    let different = Presence::Different("PRECONDITION_FAILED - inequivalent arg 'x-queue-type'".to_owned());
    let steps = [
        broker_step(queue(), Presence::Missing),
        broker_step(queue(), Presence::There),
        broker_step(queue(), different),
    ];
    let plan = Plan { steps: steps.into_iter().flatten().collect() };
    insta::assert_snapshot!(plan, @r"
      + queue pinion.orders (routing key orders)
      ! the queue pinion.orders is declared differently
          PRECONDITION_FAILED - inequivalent arg 'x-queue-type'
          let its messages be worked off, delete it, and apply again; or choose another namespace

    1 to create, 1 to be mended first. `pinion apply` does it.
    ");
    insta::assert_snapshot!(plan.json(), @r#"{"pending":1,"remaining":1,"steps":[{"details":[],"job":null,"name":"pinion.orders","step":"create","what":"queue pinion.orders (routing key orders)"},{"details":["PRECONDITION_FAILED - inequivalent arg 'x-queue-type'","let its messages be worked off, delete it, and apply again; or choose another namespace"],"job":null,"name":"pinion.orders","step":"blocked","what":"the queue pinion.orders is declared differently"}]}"#);
}
