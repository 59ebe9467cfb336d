ALTER ROLE "{{name}}" NOLOGIN;
GRANT "{{name}}" TO "openbao" WITH INHERIT TRUE;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';
DROP ROLE "{{name}}";
