//! The bank's procedures, over HTTP and on both databases.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use cratestack::axum::http::StatusCode;
use cratestack::dec;
use serde_json::json;

use support::{House, token};

#[tokio::test]
async fn money_moves_or_does_not() {
    for house in House::all().await {
        let accounts = house.accounts(2, dec!(100)).await.unwrap();
        let (teller, manager) = (token("tina", "teller"), token("max", "manager"));
        let order = |amount: &str| json!({"fromId": accounts[0].id.to_string(), "toId": accounts[1].id.to_string(), "amount": amount});

        let (status, done) = house.post("/api/rpc/transfer", &teller, &order("30.5")).await;
        assert_eq!(status, StatusCode::CREATED, "{done}");
        assert_eq!(
            (status, &done["amount"], &done["status"]),
            (StatusCode::CREATED, &json!("30.5000"), &json!("settled"))
        );

        for (who, body, status, code) in [
            (teller.as_str(), order("70"), 409, "insufficient_funds"),
            (&teller, order("0"), 422, "validation_failed"),
            (
                &teller,
                json!({"fromId": accounts[0].id.to_string(), "toId": accounts[0].id.to_string(), "amount": "1"}),
                422,
                "validation_failed",
            ),
            (
                &teller,
                json!({"fromId": accounts[0].id.to_string(), "toId": done["id"], "amount": "1"}),
                404,
                "not_found",
            ),
            (&manager, order("1"), 403, "forbidden"),
        ] {
            let (answered, problem) = house.post("/api/rpc/transfer", who, &body).await;
            assert_eq!((answered.as_u16(), problem["code"].as_str()), (status, Some(code)), "{problem}");
        }
        let (_, problem) = house.post("/api/rpc/transfer", &teller, &order("70")).await;
        assert_eq!(
            (&problem["type"], &problem["detail"]),
            (
                &json!("https://cratestack.dev/problems/insufficient_funds"),
                &json!("the account does not hold that much")
            )
        );
        house.audit(dec!(200), dec!(100)).await;

        let asked = json!({"accountId": accounts[1].id.to_string(), "from": "2000-01-01", "to": "2999-12-31"});
        let (status, statement) = house.post("/api/rpc/statement", &manager, &asked).await;
        assert_eq!(status, StatusCode::OK, "{statement}");
        let lines = statement["items"].as_array().unwrap();
        assert_eq!((lines.len(), &statement["next"]), (1, &json!(null)));
        assert_eq!(
            (&lines[0]["direction"], &lines[0]["amount"], &lines[0]["balance"]),
            (&json!("credit"), &json!("30.5000"), &json!("130.5000"))
        );
        house.close().await;
    }
}
