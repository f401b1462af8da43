"""Start the nightly run from Airflow instead of the CronJob, with the same submitter.

Apply an overlay, suspend its CronJob (``kubectl patch cronjob matteline -p '{"spec": {"suspend": true}}'``), and copy this file
into the folder of DAGs. Needs Airflow 2.8 or newer with its Kubernetes provider. RayJobs are not deleted automatically.
"""

from datetime import UTC, datetime, timedelta

from airflow import DAG
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import models as k8s

with DAG(
    "matteline",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,  # one run per output
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
):
    KubernetesPodOperator(
        task_id="night",
        namespace="default",  # as in the overlay
        service_account_name="matteline-submitter",
        image="ghcr.io/example/matteline:0.1.0-ray2.60.0",
        cmds=["python", "/submit/submit.py"],
        # A retry has the same name, so it finds the RayJob and continues to wait.
        env_vars={"PATTERN": "matteline", "NIGHT": "matteline-{{ ts_nodash | lower }}"},
        security_context={"runAsNonRoot": True, "runAsUser": 1000},
        volumes=[k8s.V1Volume(name="submit", config_map=k8s.V1ConfigMapVolumeSource(name="matteline-submit"))],
        volume_mounts=[k8s.V1VolumeMount(name="submit", mount_path="/submit", read_only=True)],
        execution_timeout=timedelta(hours=25),
    )
