// The API's page: Swagger UI over openapi.json. A key that is typed in stays in this page.
"use strict";

SwaggerUIBundle({
  dom_id: "#api",
  url: "/openapi.json",
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: false,
  tryItOutEnabled: true,
  // Its own validator is a site elsewhere.
  validatorUrl: null,
});
