"""Event-driven pipelines with the semantics of SNS, SQS and Firehose, durable in one file."""
