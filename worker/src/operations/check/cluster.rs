//! Elasticsearch: whether it can be reached, has what `apply` makes, and refuses what would break the versions.

use pinion_schemas::{Finding, JobDefinition, Severity};
use serde_json::{Value, json};

use super::{Context, Place, some_of, unique};
use crate::elasticsearch::{Answer, Elasticsearch, Method};
use crate::error::Fault;
use crate::operations::indexes::{live_template, templates};
use crate::operations::plan::{Plan, Sign, Step};
use crate::ports::Index as _;

pub(super) async fn check(context: &Context) -> Vec<Finding> {
    let place = Place::config(context);
    let line = place.toml_line(&["elasticsearch", "urls"]);
    let failed = |fault: &Fault, what: &str| {
        place.finding(Severity::Error, line, format!("{what}{}", fault_text(fault)), mend_of(fault))
    };
    let root = match context.elasticsearch.request(Method::Get, "/", None).await.and_then(Answer::success) {
        Ok(root) => root,
        Err(fault) => return vec![failed(&fault, "")],
    };
    let mut findings: Vec<Finding> = version_problem(&root)
        .map(|problem| place.finding(Severity::Error, line, problem, "Pinion works with Elasticsearch 8 and 9"))
        .into_iter()
        .collect();
    match Plan::index_steps(context).await {
        Ok(steps) => {
            let (missing, others): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(|step| step.sign == Sign::Create);
            if !missing.is_empty() {
                let missing: Vec<String> = missing.iter().map(|step| step.name.clone()).collect();
                let problem = format!("not in Elasticsearch: {}", some_of(&missing));
                findings.push(place.finding(Severity::Error, line, problem, "run `pinion apply`"));
            }
            findings.extend(others.iter().map(|step| pending(context, step)));
        }
        Err(fault) => findings.push(place.finding(Severity::Error, line, fault.to_string(), "mend it and check again")),
    }
    for job in context.definitions() {
        match creates_by_itself(context, job).await {
            Ok(None) => {}
            Ok(Some(index)) => findings.push(may_create(job, &index)),
            Err(fault) => findings
                .push(failed(&fault, &format!("could not try whether {} can be created by a bulk: ", job.index))),
        }
    }
    findings
}

fn fault_text(fault: &Fault) -> String {
    match fault {
        Fault::Away { reason, .. } => format!("Elasticsearch can't be used: {reason}"),
        fault => format!("Elasticsearch refuses: {fault}"),
    }
}

fn mend_of(fault: &Fault) -> &'static str {
    match fault {
        Fault::Away { .. } => {
            "is it running, are the urls right, are api_key, or username and password, right? With https: is the host's name \
             the certificate's, and is its authority known (ca_file)?"
        }
        _ => {
            "give the user of [elasticsearch] the rights to monitor the cluster, and to manage templates and its indexes"
        }
    }
}

fn version_problem(root: &Value) -> Option<String> {
    let version = root["version"]["number"].as_str().unwrap_or("unknown");
    if let Some(distribution) = root["version"]["distribution"].as_str() {
        return Some(format!("the server is {distribution} {version}"));
    }
    let major = version.split('.').next().unwrap_or_default();
    (!["8", "9"].contains(&major)).then(|| format!("the server is Elasticsearch {version}"))
}

/// What `apply` would do is a finding of the job's.
fn pending(context: &Context, step: &Step) -> Finding {
    let job = step.job.as_ref().and_then(|name| context.definitions().find(|job| job.name == *name));
    let place = match (job, step.sign) {
        (Some(job), Sign::Change | Sign::Rebuild) => Place::of_job(job, "mapping.json"),
        (Some(job), _) => Place::of_job(job, "job.toml"),
        (None, _) => Place::config(context),
    };
    let details = step.details.join(", ");
    let (severity, problem, mend) = match step.sign {
        Sign::Create | Sign::Change => {
            // These let an old write win, or lose one.
            let unsafe_ = step.details.iter().any(|detail| {
                detail.starts_with("index.gc_deletes") || detail.starts_with("index.translog.durability")
            });
            let severity = if unsafe_ || details.is_empty() { Severity::Error } else { Severity::Warning };
            (severity, format!("not applied: {}: {details}", step.what), "run `pinion apply`".to_owned())
        }
        Sign::Rebuild => {
            (Severity::Warning, format!("{}: {details}", step.what), "until then the index stays as it is".to_owned())
        }
        Sign::Blocked => (Severity::Error, step.what.clone(), details),
    };
    let problem = problem.trim_end_matches([':', ' ']).to_owned();
    let line = if place.file.ends_with("job.toml") { place.toml_line(&["index"]) } else { None };
    place.finding(severity, line, problem, mend)
}

/// Proves that a bulk request creates no index of the job's: by a delete, which would leave an empty index and nothing
/// else. Gives the index that was created all the same, and removes it. Not tried where the template is missing.
async fn creates_by_itself(context: &Context, job: &JobDefinition) -> Result<Option<String>, Fault> {
    let elasticsearch: &Elasticsearch = &context.elasticsearch;
    for template in templates(&context.config.names, &[job]).iter().filter(|template| template.job.is_some()) {
        if template.step(live_template(elasticsearch, &template.name).await?.as_ref()).is_some() {
            return Ok(None);
        }
    }
    let index = format!("{}-20check-{}", job.index, unique());
    let delete = json!({"delete": {"_id": "check", "version": 1, "version_type": "external_gte"}});
    let items = elasticsearch.bulk(&index, format!("{delete}\n").into(), 1).await?;
    if items.iter().all(|item| item.error.is_some()) {
        return Ok(None);
    }
    elasticsearch.request(Method::Delete, &format!("/{index}"), None).await.and_then(Answer::success)?;
    Ok(Some(index))
}

fn may_create(job: &JobDefinition, index: &str) -> Finding {
    let place = Place::of_job(job, "job.toml");
    let problem =
        format!("a bulk request created {index}: another index template stands above Pinion's for {}", job.index);
    let mend = "lower its priority, or set allow_auto_create to false in it: an index that appears by itself has no mapping \
                and forgets versions";
    place.finding(Severity::Error, place.toml_line(&["index"]), problem, mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_are_not_known_to_work_are_told() {
        let of = |version: Value| version_problem(&json!({"version": version}));
        assert_eq!(of(json!({"number": "8.18.8"})), None);
        assert_eq!(of(json!({"number": "9.0.4"})), None);
        assert_eq!(of(json!({"number": "7.17.0"})).as_deref(), Some("the server is Elasticsearch 7.17.0"));
        let opensearch = json!({"number": "2.11.0", "distribution": "opensearch"});
        assert_eq!(of(opensearch).as_deref(), Some("the server is opensearch 2.11.0"));
    }
}
