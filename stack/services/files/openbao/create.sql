CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE "KIT_ROLE";
ALTER ROLE "{{name}}" SET role TO 'KIT_ROLE';
